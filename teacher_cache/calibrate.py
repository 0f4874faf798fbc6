"""Calibrating the class affinity: a fixed set of views -> teacher -> which classes go together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from teacher_cache.batch import BatchRenderer, Entries
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.labels.affinity import AffinityRule, AffinitySum, calibration_rows_views
from teacher_cache.labels.codec import LabelArrays, encode
from teacher_cache.logits import teacher_logits
from teacher_cache.teacher import Teacher
from teacher_cache.views.recipe import Recipe


def num_calibration_views(rule: AffinityRule, num_classes: int) -> int:
    """Return how many views an affinity is calibrated on."""
    return rule["views_per_class"] * num_classes


def calibrate(
    dataset: PackedDataset,
    recipe: Recipe,
    teacher: Teacher,
    rule: AffinityRule,
    *,
    batch_size: int,
    workers: int,
    advance: Callable[[int], None],
) -> LabelArrays:
    """Return a class affinity as it is stored: (C + 1, entries) twice, (C + 1,).

    Args:
        dataset: Where the images are.
        recipe: How views are rendered.
        teacher: Whose affinity it is.
        rule: See labels/affinity.py.
        batch_size: Views in one forward pass.
        workers: Processes that render; 0 renders in this one.
        advance: Told the number of views that were used since it was last told.

    Raises:
        TeacherCacheError: See `teacher_logits`.
    """
    num_classes = teacher.spec.num_classes
    rows_N, views_N = calibration_rows_views(len(dataset), num_calibration_views(rule, num_classes))
    stops = range(batch_size, len(rows_N), batch_size)
    parts = zip(np.split(rows_N, stops), np.split(views_N, stops), strict=True)
    total = AffinitySum()
    loads = [[Entries(rows_B, views_B)] for rows_B, views_B in parts]
    renderer = BatchRenderer(dataset, recipe)
    for batch, logits_BC in teacher_logits(
        renderer, teacher, loads, workers=workers, what="the calibration views"
    ):
        total.add(logits_BC)
        advance(len(batch.rows_B))
    return encode(total.rows(rule["entries"]), num_classes)
