"""(rows, views) -> rendered batches: each image decoded once, rendered in all the views that are wanted.

Shapes: B views wanted, R views rendered (the B, then partners that are not among them), H = W = img_size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import get_worker_info

from teacher_cache.batches.batch import Targets, ViewBatch, ViewIds
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.views.finish import Finishing, erased_values
from teacher_cache.views.mixing import Mix, Mixing
from teacher_cache.views.recipe import Recipe
from teacher_cache.views.render import render_views

_SPARE_IMAGES = 4
"""Images by which a shared buffer exceeds its first batch: later batches may have more partners."""
_MAX_BUFFERS = 16
"""Shared buffers kept by a worker: more than a loader holds at once, bounded for readers that keep them."""


class BatchRenderer:
    """Renders views of a dataset's rows under a recipe.

    Args:
        dataset: Images.
        recipe: Augmentation of the views.

    Attributes:
        mixing: Pairing of the rows; None where the recipe does not mix.
    """

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
        plans = [_BatchPlan(view_ids, self.mixing) for view_ids in batches]
        rendered = [self._empty(len(plan.rendered)) for plan in plans]
        for row, slots_of_views in _slots_by_row(plans).items():
            self._render_row(row, slots_of_views, rendered)
        return [self._batch(*parts) for parts in zip(batches, plans, rendered, strict=True)]

    def _empty(self, count: int) -> _Rendered:
        images_RHWC = self._buffers.empty(count, self.recipe.img_size)
        return _Rendered(images_RHWC, images_RHWC.numpy(), np.zeros((count, 4), np.int32))

    def _render_row(self, row: int, slots_of_views: _SlotsOfViews, rendered: Sequence[_Rendered]) -> None:
        """Render a row in each of its views into the view's first slot, and copy it to the other slots."""
        first_slots = [slots[0] for slots in slots_of_views.values()]
        out_VHWC = [rendered[slot.batch].pixels_RHWC[slot.position] for slot in first_slots]
        params_V = render_views(
            self.dataset.image_view(row),
            self.recipe,
            self.dataset.index.key(row),
            list(slots_of_views),
            out_VHWC,
        )
        for slots, out_HWC, params in zip(slots_of_views.values(), out_VHWC, params_V, strict=True):
            for slot in slots[1:]:
                rendered[slot.batch].pixels_RHWC[slot.position] = out_HWC
            if params.erase is not None:
                for slot in slots:
                    rendered[slot.batch].erase_R4[slot.position] = params.erase

    def _batch(self, view_ids: ViewIds, plan: _BatchPlan, rendered: _Rendered) -> ViewBatch:
        finishing = None
        if self.recipe.erasing or self.recipe.mixing:
            finishing = Finishing(
                erase_R4=torch.from_numpy(rendered.erase_R4),
                erased_C256=erased_values(self.recipe.erasing),
                **plan.mixed(self.mixing),
            )
        labels_N = self.dataset.index.labels_N
        own_B, partner_B = (
            labels_N[rows_B].astype(np.int64) for rows_B in (view_ids.rows_B, plan.partner_rows_B)
        )
        weight_B = finishing.weight_B if finishing and self.mixing else None
        return ViewBatch(
            images_RCHW=rendered.images_RHWC.permute(0, 3, 1, 2),
            finishing=finishing,
            targets=Targets(torch.from_numpy(own_B), torch.from_numpy(partner_B), weight_B),
            labels=None,
            rows_B=torch.from_numpy(view_ids.rows_B),
            views_B=torch.from_numpy(view_ids.views_B),
        )


class _Rendered(NamedTuple):
    """Rendered views of a batch: a tensor, the same memory as an array, and the erased boxes."""

    images_RHWC: torch.Tensor
    pixels_RHWC: npt.NDArray[np.uint8]
    erase_R4: npt.NDArray[np.int32]


class _Slot(NamedTuple):
    """Room for one rendered view: number of the batch, position among its R views."""

    batch: int
    position: int


_SlotsOfViews = dict[int, list[_Slot]]


def _slots_by_row(plans: Iterable[_BatchPlan]) -> dict[int, _SlotsOfViews]:
    """Return the slots of each view of each row, over several batches."""
    slots: dict[int, _SlotsOfViews] = {}
    for batch, plan in enumerate(plans):
        for index, (row, view) in enumerate(plan.rendered):
            slots.setdefault(row, {}).setdefault(view, []).append(_Slot(batch, index))
    return slots


class _BatchPlan:
    """The views rendered for a batch: those wanted, then partners that are not among them.

    Attributes:
        partner_rows_B: Rows that the wanted views are mixed with; their own where nothing is mixed.
        rendered: (row, view) of the R views.
    """

    def __init__(self, view_ids: ViewIds, mixing: Mixing | None) -> None:
        self.partner_rows_B = view_ids.rows_B
        if mixing is not None:
            self.partner_rows_B = np.empty_like(view_ids.rows_B)
            for view in np.unique(view_ids.views_B).tolist():
                members = view_ids.views_B == view
                self.partner_rows_B[members] = mixing.partners(view_ids.rows_B[members], view)
        self.rendered = _pairs(view_ids.rows_B, view_ids.views_B)
        self._index = {wanted: index for index, wanted in reversed(list(enumerate(self.rendered)))}
        for partner in _pairs(self.partner_rows_B, view_ids.views_B):
            if partner not in self._index:
                self._index[partner] = len(self.rendered)
                self.rendered.append(partner)

    def mixed(self, mixing: Mixing | None) -> dict[str, torch.Tensor]:
        """Return the fields of Finishing that mix views."""
        count = len(self.partner_rows_B)
        blend_B, weight_B = np.ones(count, np.float32), np.ones(count, np.float32)
        box_B4, partner_B = np.zeros((count, 4), np.int32), np.arange(count)
        if mixing is not None:
            pairs = zip(self.rendered, self.partner_rows_B.tolist(), strict=False)
            mixes: dict[tuple[int, int], Mix] = {}
            for index, ((row, view), partner) in enumerate(pairs):
                partner_B[index] = self._index[partner, view]
                mix = mixes.pop((partner, view), None) or mixing.mix(row, partner, view)
                mixes[row, view] = mix
                blend_B[index], box_B4[index], weight_B[index] = mix.blend, mix.box, mix.weight
        fields = {"partner_B": partner_B, "blend_B": blend_B, "box_B4": box_B4, "weight_B": weight_B}
        return {name: torch.from_numpy(array) for name, array in fields.items()}


class _ImageBuffers:
    """Memory for rendered images: fresh, or in a worker, shared buffers that are reused once read.

    New shared memory comes page by page, each an interrupt; a buffer that exists already costs nothing.
    """

    def __init__(self) -> None:
        self._shared: list[torch.Tensor] = []

    def empty(self, count: int, size: int) -> torch.Tensor:
        """Return uint8 (count, size, size, 3), with a byte behind it that tells whether it is in use."""
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


def _pairs(rows_B: npt.NDArray[np.int64], views_B: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    return list(zip(rows_B.tolist(), views_B.tolist(), strict=True))
