"""One update: views -> device -> pixels -> loss -> new weights. An update does not wait for a GPU.

(With float16, timm's unfused optimizers do wait: the loss scaler reads back whether a gradient overflowed.)
"""

from __future__ import annotations

import contextlib
import dataclasses
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import torch
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch.nn.parallel import DistributedDataParallel

from student.losses import distillation_loss
from student.model import as_heads
from student.ranks import Ranks
from student.terms import Objective
from teacher_cache import Labels, ViewBatch
from teacher_cache.exact.streams import Purpose, RandomStream
from teacher_cache.labels.ensemble import top_classes
from teacher_cache.labels.topk import AnyLabels, labels_from_logits
from teacher_cache.models.teacher import Teacher
from teacher_cache.models.trial import check_trial
from teacher_cache.views.finish import normalize

Teaching: TypeAlias = Callable[[ViewBatch, torch.Tensor], AnyLabels | None]
"""Function (batch, pixels (B, 3, H, W) on the device) -> teacher labels on it, or None without a teacher."""


def stored_labels(batch: ViewBatch, pixels_BCHW: torch.Tensor) -> AnyLabels | None:
    """Return the stored labels of a batch on the device of the pixels, or None if it has no labels."""
    return None if batch.labels is None else batch.labels.to(pixels_BCHW.device)


class LiveTeacher:
    """Teacher that labels each batch within the training step; its labels hold all classes.

    Attributes:
        passes: Number of views labelled so far.
    """

    def __init__(self, teacher: Teacher) -> None:
        self.teacher, self.passes = teacher, 0

    def __call__(self, batch: ViewBatch, pixels_BCHW: torch.Tensor) -> Labels:
        """Return the teacher's labels of a batch, after trying the teacher on the first batch.

        Raises:
            ModelError: The teacher's output cannot be logits, or does not repeat; see `check_trial`.
        """
        del batch
        if self.passes == 0:
            check_trial(self.teacher, pixels_BCHW)
        self.passes += len(pixels_BCHW)
        return labels_from_logits(self.teacher.logits(pixels_BCHW), self.teacher.spec.num_classes)


class UpdateReport(NamedTuple):
    """Figures of one update: scalars on the device, means over the batches and all processes.

    Attributes:
        label: Loss term of the true labels, before weighting.
        distillation: Loss term of the teacher's labels, before weighting; 0 without a teacher.
        agreement: Share of views where the taught head's top class is the teacher's; 0 without a teacher.
    """

    loss: torch.Tensor
    label: torch.Tensor
    distillation: torch.Tensor
    agreement: torch.Tensor


class PendingUpdate(NamedTuple):
    """An update whose figures are still on the device."""

    step: int
    seconds: float
    lr: float
    values_4: torch.Tensor
    rows: torch.Tensor
    views: torch.Tensor

    @property
    def order(self) -> str:
        """Digest of the update's views: runs with equal digests saw the same views in the same order."""
        return f"{zlib.crc32(self.views.numpy().tobytes(), zlib.crc32(self.rows.numpy().tobytes())):08x}"


class NonFiniteError(Exception):
    """A loss is not finite; the weights are as they were before the update."""

    def __init__(self, batches: Sequence[ViewBatch]) -> None:
        super().__init__()
        self.batches = batches


@dataclasses.dataclass
class Trainer:
    """A model with everything that training changes.

    Attributes:
        model: Student, on the process's device.
        forward: Module that calls the student: the student itself, compiled, or distributed over processes.
        mean, std: Normalization of the student's input.
        ranks: Rank and device of this process, and the number of processes that share an update.
        optimizer, scheduler: From timm; the learning rate depends only on the number of updates.
        scaler: Loss scaler, active only if autocast is to float16.
        ema: Moving average of the weights, or None.
        teach: Source of teacher labels.
        autocast: Type of the forward pass, or None for float32.
        clip_grad: Largest norm of all gradients together, or None.
        seed: Seed of dropout; every update and rank derives its own random stream from it, so that no
            generator state has to be saved.
        is_whole: Whether model, optimizer and moving average have all taken the same number of updates.
    """

    model: torch.nn.Module
    forward: torch.nn.Module
    ranks: Ranks
    mean: tuple[float, ...]
    std: tuple[float, ...]
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler
    scaler: torch.amp.GradScaler
    ema: ModelEmaV3 | None
    objective: Objective
    teach: Teaching = stored_labels
    autocast: torch.dtype | None = None
    clip_grad: float | None = None
    seed: int = 0
    updates: int = 0
    is_whole: bool = True

    @property
    def lr(self) -> float:
        """Learning rate of the next update."""
        return self.optimizer.param_groups[0]["lr"]

    def update(self, batches: Sequence[ViewBatch]) -> UpdateReport:
        """Do one update from equally large batches, and return its figures.

        Raises:
            NonFiniteError: The loss is not finite. Checked only on a CPU, where it costs nothing; elsewhere
                the caller finds it in the figures.
        """
        words = RandomStream((self.seed, self.ranks.rank), Purpose.DROP, (self.updates, 0)).words(1)
        torch.manual_seed(int(words[0]))
        self.optimizer.zero_grad(set_to_none=True)
        reports = []
        for number, batch in enumerate(batches, 1):
            is_last = number == len(batches)
            with self._waits_to_synchronise(is_last):
                report = self._report(batch)
                if self.ranks.device.type == "cpu" and not torch.isfinite(report.loss):
                    raise NonFiniteError(batches)
                self.scaler.scale(report.loss / len(batches)).backward()
            reports.append(UpdateReport(*(value.detach() for value in report)))
        if self.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_grad)
        values_4 = self.ranks.mean(torch.stack([torch.stack(report) for report in reports]).mean(0))
        self.is_whole = False
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.updates += 1
        self.scheduler.step_update(self.updates)
        if self.ema is not None:
            self.ema.update(self.model, step=self.updates)
        self.is_whole = True
        return UpdateReport(*values_4)

    def _report(self, batch: ViewBatch) -> UpdateReport:
        pixels_BCHW = batch.pixels(self.ranks.device)
        labels = self.teach(batch, pixels_BCHW)
        inputs_BCHW = normalize(pixels_BCHW, self.mean, self.std)
        with torch.autocast(self.ranks.device.type, self.autocast, enabled=self.autocast is not None):
            heads = as_heads(self.forward(inputs_BCHW))
        loss = distillation_loss(heads, batch.targets.to(self.ranks.device), labels, self.objective)
        agreement = torch.zeros_like(loss.total)
        if labels is not None:
            tail, affinity = self.objective.tail, self.objective.affinity
            classes_B = top_classes(labels, heads.taught_BC.shape[1], tail=tail, affinity=affinity)
            agreement = (heads.taught_BC.argmax(1) == classes_B).float().mean()
        return UpdateReport(*loss, agreement)

    def _waits_to_synchronise(self, is_last: bool) -> contextlib.AbstractContextManager[object]:
        """Return a context in which DDP keeps gradients local, except for an update's last batch."""
        if isinstance(self.forward, DistributedDataParallel) and not is_last:
            return self.forward.no_sync()
        return contextlib.nullcontext()
