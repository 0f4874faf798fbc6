"""Batches of views as tensors: their ids, pixels and labels.

Shapes: B views wanted, R views rendered (the B, then partners that are not among them), H = W = img_size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812  # as torch's own documentation names it

from teacher_cache.batches.rendered import RenderedBatch
from teacher_cache.errors import DatasetError
from teacher_cache.labels.topk import AnyLabels
from teacher_cache.views.finish import finish, normalize
from teacher_cache.views.finishing import Finishing
from teacher_cache.views.recipe_ops import IMAGENET_MEAN, IMAGENET_STD

_Value = TypeVar("_Value")


class Targets(NamedTuple):
    """True labels of B views.

    Attributes:
        own_B: int64, class ids of the views' own samples; -1 for samples without a label.
        partner_B: int64, class ids of the samples they are mixed with.
        weight_B: float32, weight of the own label; the partner's has the rest. None where nothing is mixed.
    """

    own_B: torch.Tensor
    partner_B: torch.Tensor
    weight_B: torch.Tensor | None

    def to(self, device: torch.device | str) -> Targets:
        """Return the targets on `device`; copies from pinned memory are asynchronous."""
        own_B, partner_B = (tensor.to(device, non_blocking=True) for tensor in (self.own_B, self.partner_B))
        weight_B = None if self.weight_B is None else self.weight_B.to(device, non_blocking=True)
        return Targets(own_B, partner_B, weight_B)

    def cross_entropy(self, logits_BC: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
        """Return the mean cross-entropy of the true labels, mixed as the views are (timm/data/mixup.py).

        Args:
            logits_BC: Student logits, float32, on the targets' device.
            smoothing: Label smoothing.

        Raises:
            DatasetError: A sample has no label; checked only on a CPU, where it costs nothing.
        """
        if self.own_B.device.type == "cpu" and (self.own_B < 0).any():
            raise DatasetError(
                "a sample of the batch has no label",
                "There is no cross-entropy of true labels.",
                "train on the teacher's labels alone, or pack the dataset with labels",
            )
        own_B = F.cross_entropy(logits_BC, self.own_B, label_smoothing=smoothing, reduction="none")
        if self.weight_B is None:
            return own_B.mean()
        partner_B = F.cross_entropy(logits_BC, self.partner_B, label_smoothing=smoothing, reduction="none")
        return (self.weight_B * own_B + (1 - self.weight_B) * partner_B).mean()


class ViewBatch(NamedTuple):
    """B rendered views; `pixels` erases and mixes them into a model's input.

    Attributes:
        images_RCHW: uint8 RGB, channels last in memory: the B views, then partners from outside the batch.
        finishing: Erasing and mixing of these views; None where the recipe does neither.
        targets: True labels of the dataset.
        labels: Teacher labels of the mixed views; None without an archive.
        rows_B: int64, rows of the samples; `PackedDataset.index.key(row)` is the key of a row.
        views_B: int64, view indices.
    """

    images_RCHW: torch.Tensor
    finishing: Finishing[torch.Tensor] | None
    targets: Targets
    labels: AnyLabels | None
    rows_B: torch.Tensor
    views_B: torch.Tensor

    def pixels(self, device: torch.device | str) -> torch.Tensor:
        """Return the views, erased and mixed: float32 (B, 3, H, W) on `device`, from 0 to 255."""
        return finish(self.images_RCHW.to(device, non_blocking=True), self.finishing)

    def inputs(
        self,
        device: torch.device | str,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> torch.Tensor:
        """Return the views as a model's input: `pixels`, normalised to (pixels / 255 - mean) / std.

        Args:
            device: Device of the result.
            mean: Mean per channel, for pixels in [0, 1]; timm's models have theirs in pretrained_cfg.
            std: Standard deviation per channel.
        """
        return normalize(self.pixels(device), mean, std)


def view_batch(
    rendered: RenderedBatch, labels: AnyLabels | None = None, *, pin_memory: bool = False
) -> ViewBatch:
    """Return a rendered batch as tensors, which share its memory unless they are pinned.

    Args:
        rendered: Batch of a renderer.
        labels: Teacher labels of the batch, on the CPU.
        pin_memory: Whether to copy all of it to pinned memory, for copies to CUDA, where there is CUDA.
    """
    finishing = None if rendered.finishing is None else Finishing(*map(torch.from_numpy, rendered.finishing))
    weight_B = None if rendered.weight_B is None else torch.from_numpy(rendered.weight_B)
    batch = ViewBatch(
        torch.from_numpy(rendered.images_RHWC).permute(0, 3, 1, 2),
        finishing,
        Targets(torch.from_numpy(rendered.own_B), torch.from_numpy(rendered.partner_B), weight_B),
        labels,
        torch.from_numpy(rendered.rows_B),
        torch.from_numpy(rendered.views_B),
    )
    return _pinned(batch) if pin_memory and torch.cuda.is_available() else batch


def _pinned(value: Any) -> Any:
    """Return nested tuples, named or not, with each of their tensors copied to pinned memory."""
    if isinstance(value, tuple):
        fields = (_pinned(field) for field in value)
        return type(value)(*fields) if hasattr(value, "_fields") else type(value)(fields)
    return value.pin_memory() if isinstance(value, torch.Tensor) else value


def unchanged(value: _Value) -> _Value:
    """Return `value` unchanged: a collate function that, unlike torch's default, keeps a batch as it is."""
    return value
