"""Loader and task for timm's own training script, with stored labels in place of a live teacher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from timm.task import TrainingTask
from timm.utils import unwrap_model
from torch.nn.parallel import DistributedDataParallel

from teacher_cache.batches.batch import ViewBatch
from teacher_cache.errors import InputError
from teacher_cache.labels.losses import hard_loss, soft_loss
from teacher_cache.labels.tail_rules import DEFAULT_TAIL, Tail
from teacher_cache.labels.topk import AnyAffinity, AnyLabels
from teacher_cache.stream.labelled_views import LabelledViews
from teacher_cache.stream.position import State


class ViewTarget:
    """Target of a batch, as timm's loop passes it on: true labels, teacher labels, and the batch itself.

    Args:
        batch: Batch of views.

    Attributes:
        batch: Argument of the same name.
        targets: True labels.
        labels: Teacher labels, or None.
    """

    def __init__(self, batch: ViewBatch) -> None:
        self.batch, self.targets, self.labels = batch, batch.targets, batch.labels

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None, **_: Any) -> ViewTarget:
        """Return the same target on `device`; the other arguments of torch.Tensor.to change nothing."""
        del dtype
        moved = ViewTarget(self.batch)
        moved.targets = self.targets.to(device)
        moved.labels = None if self.labels is None else self.labels.to(device)
        return moved


class TimmLoader:
    """Loader with the interface that timm's training script needs: batches (input, target) of one epoch.

    Inputs are normalised, erased and mixed already: leave timm's mixup, erasing and normalisation off.

    Args:
        views: Views with labels.
        mean: Mean of the model's input, per channel; see timm.data.resolve_data_config.
        std: Standard deviation of the model's input, per channel.
        device: Device of the inputs and targets.
        img_dtype: Type of the inputs, as timm's create_loader names it.
        workers: Processes that render views; 0 renders in this process.

    Attributes:
        dataset: The loader itself, so that `dataset.set_epoch` sets its epoch.
        sampler, batch_sampler: None; LabelledViews takes each process's share by itself.
        mixup_enabled: False; the views are mixed as the teacher saw them.
    """

    sampler = batch_sampler = None
    mixup_enabled = False

    def __init__(
        self,
        views: LabelledViews,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device | str = "cpu",
        img_dtype: torch.dtype = torch.float32,
        workers: int = 0,
    ) -> None:
        self._views, self._mean, self._std, self._img_dtype = views, mean, std, img_dtype
        self._device, self._workers = torch.device(device), workers
        self._epoch = 0

    @property
    def dataset(self) -> TimmLoader:
        """The loader itself, so that `dataset.set_epoch` sets its epoch."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._views)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, ViewTarget]]:
        pins = self._device.type == "cuda"
        for batch in self._views.epoch(self._epoch, workers=self._workers, pin_memory=pins):
            inputs_BCHW = batch.inputs(self._device, self._mean, self._std).to(self._img_dtype)
            yield inputs_BCHW, ViewTarget(batch).to(self._device)

    def state_dict(self) -> State:
        """Return the position; see `LabelledViews.state_dict`."""
        return self._views.state_dict()

    def load_state_dict(self, state: Mapping[str, int | str]) -> None:
        """Continue at a position, also in the middle of an epoch."""
        self._views.load_state_dict(state)


class StoredDistillationTask(TrainingTask):
    """Task that trains a student on stored labels; of two heads, the distillation head learns from them.

    The default weights are those of timm's TokenDistillationTask: both 1, or w and 1 - w if task_loss_weight
    w is given. The default loss is hard, as in DeiT; timm's is soft.

    Args:
        student_model: Student.
        distill_type: Loss of the teacher's term.
        task_loss_weight: Weight of the true labels' term.
        distill_loss_weight: Weight of the teacher's term; by default 1 - `task_loss_weight`, or 1 without it.
        temperature: Temperature of the soft loss.
        smoothing: Label smoothing of the true labels.
        tail: Rule that spreads a label's tail mass.
        affinity: `LabelledViews.affinity`.
        device: Device of the task.
        dtype: Type of the task.
        verbose: Accepted as timm's tasks do; nothing is logged.

    Raises:
        InputError: `distill_type` is neither hard nor soft.
    """

    def __init__(
        self,
        student_model: torch.nn.Module,
        *,
        distill_type: Literal["hard", "soft"] = "hard",
        task_loss_weight: float | None = None,
        distill_loss_weight: float | None = None,
        temperature: float = 1.0,
        smoothing: float = 0.0,
        tail: Tail = DEFAULT_TAIL,
        affinity: AnyAffinity = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        verbose: bool = True,
    ) -> None:
        super().__init__(device=device, dtype=dtype, verbose=verbose)
        if distill_type not in ("hard", "soft"):
            raise InputError(
                f"distill_type {distill_type!r}", "No loss has that name.", "choose hard or soft"
            )
        unwrapped = unwrap_model(student_model)
        if hasattr(unwrapped, "set_distilled_training"):
            unwrapped.set_distilled_training(True)
        self.trainable_module = student_model
        if distill_loss_weight is None:
            distill_loss_weight = 1.0 if task_loss_weight is None else 1 - task_loss_weight
        self._weights = (1.0 if task_loss_weight is None else task_loss_weight, distill_loss_weight)
        self._distill_type, self._temperature, self._smoothing = distill_type, temperature, smoothing
        self._tail, self._affinity = tail, None if affinity is None else affinity.to(self.device)

    def prepare_distributed(
        self, device_ids: list[Any] | None = None, **ddp_kwargs: Any
    ) -> StoredDistillationTask:
        """Wrap the student in DistributedDataParallel; see timm.task.TrainingTask.

        Args:
            device_ids: Device of this process; None on a CPU.
            **ddp_kwargs: Further arguments of DistributedDataParallel.
        """
        on_gpu = self.device.type == "cuda"
        self.trainable_module = DistributedDataParallel(
            self.trainable_module, device_ids=device_ids if on_gpu else None, **ddp_kwargs
        )
        return self

    def compile(  # type: ignore[override]
        self, backend: str = "inductor", mode: str | None = None, **compile_kwargs: Any
    ) -> torch.nn.Module:
        """Compile the student; see timm.task.TrainingTask.

        Args:
            backend: Backend of torch.compile.
            mode: Mode of torch.compile.
            **compile_kwargs: Further arguments of torch.compile.
        """
        compiled: Any = torch.compile(self.trainable_module, backend=backend, mode=mode, **compile_kwargs)
        self.trainable_module = self.eval_model = compiled
        return compiled

    def forward(  # type: ignore[override]
        self, inputs_BCHW: torch.Tensor, target: ViewTarget
    ) -> dict[str, torch.Tensor]:
        """Return the loss, its two terms and the class head's logits, by timm's names.

        Args:
            inputs_BCHW: Normalised views.
            target: Labels of the views.
        """
        output = self.trainable_module(inputs_BCHW)
        class_BC, taught_BC = output if isinstance(output, tuple) else (output, output)
        task_loss = torch.zeros((), device=class_BC.device)
        if self._weights[0] > 0:  # images may have no labels of their own
            task_loss = target.targets.cross_entropy(class_BC.float(), self._smoothing)
        if target.labels is None:
            raise InputError(
                "views without labels in a StoredDistillationTask",
                "The teacher's term of the loss cannot be computed.",
                "give LabelledViews an archive as `labels`, or train with timm's ClassificationTask",
            )
        distill_loss = self._teachers_term(taught_BC.float(), target.labels)
        loss = self._weights[0] * task_loss + self._weights[1] * distill_loss
        return {"loss": loss, "output": class_BC, "task_loss": task_loss, "distill_loss": distill_loss}

    def _teachers_term(self, taught_BC: torch.Tensor, labels: AnyLabels) -> torch.Tensor:
        if self._distill_type == "hard":
            return hard_loss(taught_BC, labels, tail=self._tail, affinity=self._affinity)
        return soft_loss(
            taught_BC, labels, temperature=self._temperature, tail=self._tail, affinity=self._affinity
        )
