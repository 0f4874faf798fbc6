"""One training step: views -> device -> pixels -> loss -> update. It never waits for the device."""

from __future__ import annotations

import dataclasses

import torch
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3

from student.config import Distillation, Tail
from student.losses import Loss, distillation_loss
from student.model import as_heads
from teacher_cache.batch import ViewBatch
from teacher_cache.labels.topk import Labels, labels_from_logits
from teacher_cache.teacher import Teacher
from teacher_cache.views.finish import normalize


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is minimised: see student/losses.py."""

    kind: Distillation
    alpha: float
    tau: float
    smoothing: float
    tail: Tail = "uniform"
    affinity: Labels | None = None


@dataclasses.dataclass
class Trainer:
    """A model with all that its training changes.

    Attributes:
        model: The student, on `device`.
        mean, std: Of its input.
        optimizer, scheduler: timm's; the learning rate is a function of the number of updates alone.
        ema: Moving average of the weights, or None.
        objective: What is minimised.
        teacher: Asked live, or None.
        bfloat16: Whether the forward pass is autocast.
        clip_grad: Largest norm of all gradients together, or None.
        updates: Steps done.
    """

    model: torch.nn.Module
    device: torch.device
    mean: tuple[float, ...]
    std: tuple[float, ...]
    optimizer: torch.optim.Optimizer
    scheduler: Scheduler
    ema: ModelEmaV3 | None
    objective: Objective
    teacher: Teacher | None = None
    bfloat16: bool = False
    clip_grad: float | None = None
    updates: int = 0

    @property
    def lr(self) -> float:
        """Learning rate of the next update."""
        return self.optimizer.param_groups[0]["lr"]

    def step(self, batch: ViewBatch) -> Loss:
        """Do one update, and return the loss it was made from, detached and still on the device."""
        pixels_BCHW = batch.pixels(self.device)
        labels = self._labels(pixels_BCHW, batch)
        inputs_BCHW = normalize(pixels_BCHW, self.mean, self.std)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            heads = as_heads(self.model(inputs_BCHW))
        loss = distillation_loss(
            heads,
            batch.targets.to(self.device),
            labels,
            self.objective.kind,
            alpha=self.objective.alpha,
            tau=self.objective.tau,
            smoothing=self.objective.smoothing,
            tail=self.objective.tail,
            affinity=self.objective.affinity,
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.total.backward()
        if self.clip_grad is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_grad)
        self.optimizer.step()
        self.updates += 1
        self.scheduler.step_update(self.updates)
        if self.ema is not None:
            self.ema.update(self.model, step=self.updates)
        return Loss(*(term.detach() for term in loss))

    def _labels(self, pixels_BCHW: torch.Tensor, batch: ViewBatch) -> Labels | None:
        """Return the stored labels, or live ones of the very same views, with all classes."""
        if self.teacher is not None:
            return labels_from_logits(self.teacher.logits(pixels_BCHW), self.teacher.spec.num_classes)
        return batch.labels.to(self.device) if batch.labels is not None else None
