"""(rows, views) -> rendered batches: each image decoded once, rendered in all the views that are wanted.

Shapes: B views wanted, R views rendered (the B, then partners that are not among them), H = W = img_size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import get_worker_info

from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.labels.topk import Labels
from teacher_cache.views.finish import Finishing, erased_values, finish
from teacher_cache.views.mixing import Mix, Mixing
from teacher_cache.views.recipe import Recipe
from teacher_cache.views.render import render_views


class ViewIds(NamedTuple):
    """Which view of which row, B of each: int64."""

    rows_B: npt.NDArray[np.int64]
    views_B: npt.NDArray[np.int64]


class Targets(NamedTuple):
    """The dataset's own labels of B views.

    Attributes:
        own_B: int64, of the views' own samples.
        partner_B: int64, of those they are mixed with.
        weight_B: float32, the own label's weight, the rest is the partner's; None: nothing is mixed.
    """

    own_B: torch.Tensor
    partner_B: torch.Tensor
    weight_B: torch.Tensor | None

    def to(self, device: torch.device | str) -> Targets:
        """Return the same targets on `device`, copied without waiting where memory is pinned."""
        own_B, partner_B = (tensor.to(device, non_blocking=True) for tensor in (self.own_B, self.partner_B))
        weight_B = None if self.weight_B is None else self.weight_B.to(device, non_blocking=True)
        return Targets(own_B, partner_B, weight_B)


class ViewBatch(NamedTuple):
    """B views of samples, as a worker hands them over; `pixels` makes a model's picture of them.

    Attributes:
        images_RCHW: uint8 RGB, channels last in memory: the B views, then partners from outside the batch.
        finishing: What is erased and mixed; None where the recipe does neither.
        targets: The dataset's own labels.
        labels: The teacher's, of the mixed view, or None without an archive.
        rows_B: int64, the samples' rows; `PackedDataset.index.key(row)` is a row's key.
        views_B: int64, the view index each is rendered at.
    """

    images_RCHW: torch.Tensor
    finishing: Finishing | None
    targets: Targets
    labels: Labels | None
    rows_B: torch.Tensor
    views_B: torch.Tensor

    def pixels(self, device: torch.device | str) -> torch.Tensor:
        """Return the views, erased and mixed: float32 (B, 3, H, W) on `device`, from 0 to 255."""
        return finish(self.images_RCHW.to(device, non_blocking=True), self.finishing)


class PackedBatch(NamedTuple):
    """A batch on its way out of a worker: the images in shared memory, all else pickled by value.

    torch opens a shared file for every tensor that leaves a worker, which costs more than a small tensor is
    worth; numpy arrays are pickled.

    Attributes:
        images_RCHW: The images.
        is_taken_1: A byte beside them, which their reader sets to 0 when it has copied them.
        rest: The other fields.
    """

    images_RCHW: torch.Tensor
    is_taken_1: torch.Tensor
    rest: Any


def pack_batch(batch: ViewBatch) -> PackedBatch:
    """Return a batch as a worker should send it."""
    rest = _with_leaves(batch._replace(images_RCHW=None), torch.Tensor.numpy)  # type: ignore[arg-type]
    buffer = batch.images_RCHW.untyped_storage()
    is_taken_1 = torch.empty(0, dtype=torch.uint8).set_(buffer, len(buffer) - 1, (1,), (1,))
    return PackedBatch(batch.images_RCHW, is_taken_1, rest)


def unpack_batch(packed: PackedBatch, *, pin_memory: bool = False) -> ViewBatch:
    """Return the batch that `pack_batch` was given, and let its worker write into its buffer again."""
    images_RCHW = packed.images_RCHW
    rest = _with_leaves(packed.rest, torch.from_numpy)
    if pin_memory:
        images_RCHW, rest = images_RCHW.pin_memory(), _with_leaves(rest, torch.Tensor.pin_memory)
    elif images_RCHW.is_shared():
        images_RCHW = images_RCHW.clone()
    packed.is_taken_1.zero_()
    return rest._replace(images_RCHW=images_RCHW)


def as_rendered(load: list[PackedBatch]) -> list[PackedBatch]:
    """Return a load as it is: torch's own default would make tensors of its arrays again."""
    return load


def _with_leaves(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return nested named tuples, each of their arrays or tensors changed."""
    if isinstance(value, tuple):
        return type(value)(*(_with_leaves(field, change) for field in value))
    return value if value is None else change(value)


class BatchRenderer:
    """Renders views of a dataset's rows under a recipe."""

    def __init__(self, dataset: PackedDataset, recipe: Recipe) -> None:
        self.dataset, self.recipe = dataset, recipe
        self._buffers = _ImageBuffers()
        self.mixing = (
            Mixing(recipe, dataset.index.key, len(dataset), dataset.info.samples_per_shard)
            if recipe.mixing
            else None
        )

    def __reduce__(self) -> tuple[type[BatchRenderer], tuple[PackedDataset, Recipe]]:
        return BatchRenderer, (self.dataset, self.recipe)  # a worker that is spawned opens the dataset itself

    def render(self, batches: Sequence[ViewIds]) -> list[ViewBatch]:
        """Render batches together, reading and decoding each of their images once.

        Raises:
            DatasetError: An image is not the one that was packed.
            ImageError: An image cannot be decoded.
        """
        plans = [_BatchPlan(entries, self.mixing) for entries in batches]
        size = self.recipe.img_size
        tensors = [self._buffers.empty(len(plan.rendered), size) for plan in plans]
        images = [tensor.numpy() for tensor in tensors]
        erase = [np.zeros((len(plan.rendered), 4), np.int32) for plan in plans]
        places: dict[int, dict[int, list[tuple[int, int]]]] = {}
        for number, plan in enumerate(plans):
            for place, (row, view) in enumerate(plan.rendered):
                places.setdefault(row, {}).setdefault(view, []).append((number, place))
        for row, views in places.items():
            firsts = [where[0] for where in views.values()]
            out_VHWC = [images[number][place] for number, place in firsts]
            key = self.dataset.index.key(row)
            params_V = render_views(self.dataset.image_bytes(row), self.recipe, key, list(views), out_VHWC)
            for where, out_HWC, params in zip(views.values(), out_VHWC, params_V, strict=True):
                for number, place in where:
                    if (number, place) != where[0]:
                        images[number][place] = out_HWC
                    if params.erase is not None:
                        erase[number][place] = params.erase
        return [self._batch(*parts) for parts in zip(batches, plans, tensors, erase, strict=True)]

    def _batch(
        self,
        entries: ViewIds,
        plan: _BatchPlan,
        images_RHWC: torch.Tensor,
        erase_R4: npt.NDArray[np.int32],
    ) -> ViewBatch:
        finishing = None
        if self.recipe.erasing or self.recipe.mixing:
            finishing = Finishing(
                erase_R4=torch.from_numpy(erase_R4),
                erased_C256=erased_values(self.recipe.erasing),
                **plan.mixed(self.mixing),
            )
        labels_N = self.dataset.index.labels_N
        own_B, partner_B = (
            labels_N[rows_B].astype(np.int64) for rows_B in (entries.rows_B, plan.partner_rows_B)
        )
        weight_B = finishing.weight_B if finishing and self.mixing else None
        return ViewBatch(
            images_RCHW=images_RHWC.permute(0, 3, 1, 2),
            finishing=finishing,
            targets=Targets(torch.from_numpy(own_B), torch.from_numpy(partner_B), weight_B),
            labels=None,
            rows_B=torch.from_numpy(entries.rows_B),
            views_B=torch.from_numpy(entries.views_B),
        )


class _BatchPlan:
    """What is rendered for a batch: its entries, then the partners that are not among them."""

    def __init__(self, entries: ViewIds, mixing: Mixing | None) -> None:
        self.partner_rows_B = entries.rows_B
        if mixing is not None:
            self.partner_rows_B = np.empty_like(entries.rows_B)
            for view in np.unique(entries.views_B).tolist():
                members = entries.views_B == view
                self.partner_rows_B[members] = mixing.partners(entries.rows_B[members], view)
        self.rendered = _pairs(entries.rows_B, entries.views_B)
        self._places = {entry: place for place, entry in reversed(list(enumerate(self.rendered)))}
        for partner in _pairs(self.partner_rows_B, entries.views_B):
            if partner not in self._places:
                self._places[partner] = len(self.rendered)
                self.rendered.append(partner)

    def mixed(self, mixing: Mixing | None) -> dict[str, torch.Tensor]:
        """Return the fields of Finishing that say how views are mixed."""
        count = len(self.partner_rows_B)
        blend_B, weight_B = np.ones(count, np.float32), np.ones(count, np.float32)
        box_B4, partner_B = np.zeros((count, 4), np.int32), np.arange(count)
        if mixing is not None:
            pairs = zip(self.rendered, self.partner_rows_B.tolist(), strict=False)
            mixes: dict[tuple[int, int], Mix] = {}
            for place, ((row, view), partner) in enumerate(pairs):
                partner_B[place] = self._places[partner, view]
                mix = mixes.pop((partner, view), None) or mixing.mix(row, partner, view)
                mixes[row, view] = mix
                blend_B[place], box_B4[place], weight_B[place] = mix.blend, mix.box, mix.weight
        fields = {"partner_B": partner_B, "blend_B": blend_B, "box_B4": box_B4, "weight_B": weight_B}
        return {name: torch.from_numpy(array) for name, array in fields.items()}


class _ImageBuffers:
    """Memory for rendered images: fresh, or in a worker, shared buffers that are used again once read.

    New shared memory comes page by page, each an interrupt; a buffer that is there already costs nothing.
    """

    def __init__(self) -> None:
        self._shared: list[torch.Tensor] = []

    def empty(self, count: int, size: int) -> torch.Tensor:
        """Return uint8 (count, size, size, 3), with a byte behind it that says whether it is taken."""
        num_bytes = count * size * size * 3
        if get_worker_info() is None:
            buffer = torch.empty(num_bytes + 1, dtype=torch.uint8)
        else:
            free = (buffer for buffer in self._shared if len(buffer) > num_bytes and not buffer[-1])
            found = next(free, None)
            buffer = self._new(num_bytes + size * size * 3 * _SPARE_IMAGES) if found is None else found
            buffer[-1] = 1
        return buffer[:num_bytes].view(count, size, size, 3)

    def _new(self, num_bytes: int) -> torch.Tensor:
        storage = torch.UntypedStorage._new_shared(num_bytes + 1)  # as torch's own collate does
        buffer = torch.empty(0, dtype=torch.uint8).set_(storage)
        if len(self._shared) < _MAX_BUFFERS:
            self._shared.append(buffer)
        return buffer


_SPARE_IMAGES = 4
"""Room for as many more partners than the first batch of a buffer had."""
_MAX_BUFFERS = 16
"""More than a loader holds at once: a reader that copies nothing must not make a worker grow for ever."""


def _pairs(rows_B: npt.NDArray[np.int64], views_B: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    return list(zip(rows_B.tolist(), views_B.tolist(), strict=True))
