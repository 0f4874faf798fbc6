"""Batches of views: their ids, pixels and labels, and the form in which a worker sends a batch.

Shapes: B views wanted, R views rendered (the B, then partners that are not among them), H = W = img_size.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812  # as torch's own documentation names it

from teacher_cache.errors import DatasetError
from teacher_cache.labels.topk import AnyLabels
from teacher_cache.views.finish import Finishing, finish, normalize
from teacher_cache.views.recipe_ops import IMAGENET_MEAN, IMAGENET_STD

_Value = TypeVar("_Value")


class ViewIds(NamedTuple):
    """Row and view index of each of B views: int64."""

    rows_B: npt.NDArray[np.int64]
    views_B: npt.NDArray[np.int64]


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
        """Return the same targets on `device`, copied without waiting where memory is pinned."""
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
    finishing: Finishing | None
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


class PackedBatch(NamedTuple):
    """A batch on its way out of a worker process: images in shared memory, all else pickled by value.

    torch sends a file, over a connection of its own, for every tensor that leaves a worker, which costs more
    than copying a small tensor does; NumPy arrays are pickled.

    Attributes:
        buffer: uint8, all of the memory that the images lie at the beginning of, shared where a worker
            rendered them. The reader sets its last byte to 0 once it no longer needs the images.
        shape_RHWC: Shape of the images in memory.
        arrays: The batch without its images, NumPy arrays in place of tensors.
    """

    buffer: torch.Tensor
    shape_RHWC: tuple[int, ...]
    arrays: Any


def pack_batch(batch: ViewBatch) -> PackedBatch:
    """Return a batch in the form in which a worker sends it."""
    memory = batch.images_RCHW.untyped_storage()
    buffer = torch.empty(0, dtype=torch.uint8).set_(memory, 0, (len(memory),), (1,))
    shape_RHWC = tuple(batch.images_RCHW.permute(0, 2, 3, 1).shape)
    without_images = batch._replace(images_RCHW=None)  # type: ignore[arg-type]
    return PackedBatch(buffer, shape_RHWC, _map_leaves(torch.Tensor.numpy, without_images))


def unpack_batch(packed: PackedBatch, *, pin_memory: bool = False) -> ViewBatch:
    """Return the batch that `pack_batch` was given.

    The worker's buffer is free for another batch once nothing refers to the images, unless they are copied to
    pinned memory.
    """
    buffer = packed.buffer
    if buffer.is_shared() and not pin_memory:
        buffer = _lent(buffer)
    images_RHWC = buffer[: math.prod(packed.shape_RHWC)].view(packed.shape_RHWC)
    batch = _map_leaves(torch.from_numpy, packed.arrays)._replace(images_RCHW=images_RHWC.permute(0, 3, 1, 2))
    if pin_memory:
        batch = _map_leaves(torch.Tensor.pin_memory, batch)
        buffer[-1] = 0
    return batch


def _lent(buffer: torch.Tensor) -> torch.Tensor:
    """Return a worker's buffer so that it is free for another batch when the last view of it is gone."""
    lent = buffer.numpy()  # every view of the tensor below keeps this array
    weakref.finalize(lent, buffer[-1:].zero_).atexit = False
    return torch.from_numpy(lent)


def unchanged(value: _Value) -> _Value:
    """Return what a dataset yields unchanged: a collate function, where torch's own would take it apart."""
    return value


def _map_leaves(function: Callable[[Any], Any], value: Any) -> Any:
    """Return nested tuples, named or not, with `function` applied to each of their arrays or tensors."""
    if isinstance(value, tuple):
        fields = (_map_leaves(function, field) for field in value)
        return type(value)(*fields) if hasattr(value, "_fields") else tuple(fields)
    return None if value is None else function(value)
