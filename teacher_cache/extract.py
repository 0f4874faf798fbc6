"""One unit, start to label: rows -> views -> teacher -> labels. It knows no engine, no archive and no CLI."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from teacher_cache.archive.layout import Unit
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import TeacherCacheError
from teacher_cache.labels.codec import LabelArrays, encode
from teacher_cache.labels.topk import labels_from_logits
from teacher_cache.teacher import Teacher
from teacher_cache.views.recipe import Recipe
from teacher_cache.views.render import render_views


class _RenderedRows(Dataset[torch.Tensor]):
    """Groups of rows, each decoded once and rendered in all views of the unit: uint8 (rows * V, 3, H, W)."""

    def __init__(
        self, dataset: PackedDataset, recipe: Recipe, groups: Sequence[range], views: Sequence[int]
    ) -> None:
        self._dataset, self._recipe, self._groups, self._views = dataset, recipe, groups, views

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, number: int) -> torch.Tensor:
        rows, size = self._groups[number], self._recipe.img_size
        out_RVCHW = torch.empty(len(rows), len(self._views), 3, size, size, dtype=torch.uint8)
        for row, out_VCHW in zip(rows, out_RVCHW, strict=True):
            image = self._dataset.image_bytes(row)
            render_views(image, self._recipe, self._dataset.index.key(row), self._views, out_VCHW)
        return out_RVCHW.flatten(0, 1)


def extract_unit(
    unit: Unit,
    dataset: PackedDataset,
    recipe: Recipe,
    teacher: Teacher,
    *,
    k: int,
    batch_size: int,
    workers: int,
    advance: Callable[[int], None],
) -> LabelArrays:
    """Label all views of a unit.

    The batches depend on nothing but the arguments, so the same device gives the same bytes each time.

    Args:
        unit: Which shard and views.
        dataset: Where the images are.
        recipe: How views are rendered.
        teacher: Who labels them.
        k: Classes to keep.
        batch_size: Views in one forward pass.
        workers: Processes that render; 0 renders in this one.
        advance: Told the number of views that were labelled since it was last told.

    Returns:
        idx and dq (rows, views, k), tail (rows, views).

    Raises:
        DatasetError: An image is not the one that was packed.
        ImageError: An image cannot be decoded.
        TeacherCacheError: The teacher's output is not finite.
    """
    rows = dataset.rows_of(unit.shard)
    step = max(1, batch_size // len(unit.views))
    groups = [rows[start : start + step] for start in range(0, len(rows), step)]
    loader = DataLoader(
        _RenderedRows(dataset, recipe, groups, unit.views),
        batch_size=None,
        num_workers=workers,
        pin_memory=teacher.device.type == "cuda",
    )
    parts = []
    for images_BCHW in loader:
        for batch_BCHW in images_BCHW.split(batch_size):
            logits_BC = teacher.logits(batch_BCHW)
            if not torch.isfinite(logits_BC).all():
                raise TeacherCacheError(
                    f"the teacher's logits of unit {unit.name} are not all finite",
                    "They would be stored as labels that look valid.",
                    "check its weights, or choose --precision float32",
                )
            parts.append(encode(labels_from_logits(logits_BC, k), teacher.spec.num_classes))
            advance(len(batch_BCHW))
    shape = (len(rows), len(unit.views))
    idx, dq, tail = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return LabelArrays(idx.reshape(*shape, k), dq.reshape(*shape, k), tail.reshape(shape))
