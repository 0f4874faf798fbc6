"""Render batches of (row, view) pairs; each image is decoded once for all of its views.

Shapes: B views wanted, R views rendered (the B, then partners that are not among them), H = W = img_size.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from teacher_cache.batches.rendered import Empty, Load, Pixels, RenderedBatch, ViewIds, allocate
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.views.finishing import Finishing, erased_values
from teacher_cache.views.mixing import Mix, Mixing
from teacher_cache.views.recipe import Recipe
from teacher_cache.views.render import render_views


class BatchRenderer:
    """Renders views of a dataset's rows under a recipe.

    Attributes:
        mixing: Pairing of the rows; None where the recipe does not mix.
    """

    def __init__(self, dataset: PackedDataset, recipe: Recipe) -> None:
        self.dataset, self.recipe = dataset, recipe
        self.mixing = (
            Mixing(recipe, dataset.index.key, len(dataset), dataset.info.samples_per_shard)
            if recipe.mixing
            else None
        )

    def __reduce__(self) -> tuple[type[BatchRenderer], tuple[PackedDataset, Recipe]]:
        return BatchRenderer, (self.dataset, self.recipe)  # a worker that is spawned opens the dataset itself

    def max_bytes(self, load: Load) -> int:
        """Return the most bytes that the pixels of a load take: every partner may be outside its batch."""
        views = sum(len(view_ids.rows_B) for view_ids in load)
        return views * (2 if self.mixing else 1) * 3 * self.recipe.img_size**2

    def render(self, load: Load, empty: Empty = allocate) -> list[RenderedBatch]:
        """Render batches together, reading and decoding each of their images once.

        Args:
            load: Batches that are wanted.
            empty: Function that returns memory for the pixels.

        Raises:
            DatasetError: An image is not the one that was packed.
            ImageError: An image cannot be decoded.
        """
        plans = [_BatchPlan(view_ids, self.mixing) for view_ids in load]
        rendered = [self._empty(len(plan.rendered), empty) for plan in plans]
        for row, slots_of_views in _slots_by_row(plans).items():
            self._render_row(row, slots_of_views, rendered)
        return [self._batch(*parts) for parts in zip(load, plans, rendered, strict=True)]

    def _empty(self, count: int, empty: Empty) -> _Rendered:
        size = self.recipe.img_size
        images_RHWC = empty(count * size * size * 3).reshape(count, size, size, 3)
        return _Rendered(images_RHWC, np.zeros((count, 4), np.int32))

    def _render_row(self, row: int, slots_of_views: _SlotsOfViews, rendered: Sequence[_Rendered]) -> None:
        """Render a row in each of its views into the view's first slot, and copy it to the other slots."""
        first_slots = [slots[0] for slots in slots_of_views.values()]
        out_VHWC = [rendered[slot.batch].images_RHWC[slot.position] for slot in first_slots]
        params_V = render_views(
            self.dataset.image_view(row),
            self.recipe,
            self.dataset.index.key(row),
            list(slots_of_views),
            out_VHWC,
        )
        for slots, out_HWC, params in zip(slots_of_views.values(), out_VHWC, params_V, strict=True):
            for slot in slots[1:]:
                rendered[slot.batch].images_RHWC[slot.position] = out_HWC
            if params.erase is not None:
                for slot in slots:
                    rendered[slot.batch].erase_R4[slot.position] = params.erase

    def _batch(self, view_ids: ViewIds, plan: _BatchPlan, rendered: _Rendered) -> RenderedBatch:
        finishing = None
        if self.recipe.erasing or self.recipe.mixing:
            finishing = Finishing(
                erase_R4=rendered.erase_R4,
                erased_C256=erased_values(self.recipe.erasing),
                **plan.mixed(self.mixing),
            )
        labels_N = self.dataset.index.labels_N
        own_B, partner_B = (
            labels_N[rows_B].astype(np.int64) for rows_B in (view_ids.rows_B, plan.partner_rows_B)
        )
        weight_B = finishing.weight_B if finishing and self.mixing else None
        return RenderedBatch(rendered.images_RHWC, finishing, own_B, partner_B, weight_B, *view_ids)


class _Rendered(NamedTuple):
    """Rendered views of a batch, and the erased boxes."""

    images_RHWC: Pixels
    erase_R4: npt.NDArray[np.int32]


class _Slot(NamedTuple):
    """Position of one rendered view: index of its batch in the load, and index among the batch's R views."""

    batch: int
    position: int


_SlotsOfViews = dict[int, list[_Slot]]


def _slots_by_row(plans: Iterable[_BatchPlan]) -> dict[int, _SlotsOfViews]:
    """Return the slots of each view, over several batches: row -> view -> slots."""
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

    def mixed(self, mixing: Mixing | None) -> dict[str, npt.NDArray]:
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
        return {"partner_B": partner_B, "blend_B": blend_B, "box_B4": box_B4, "weight_B": weight_B}


def _pairs(rows_B: npt.NDArray[np.int64], views_B: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    return list(zip(rows_B.tolist(), views_B.tolist(), strict=True))
