"""Calibrate the class affinity from a teacher's logits of a fixed set of views."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from teacher_cache.batches.batch import ViewIds
from teacher_cache.batches.pool import RenderPool
from teacher_cache.labelling.logits import teacher_logits
from teacher_cache.labels.affinity import AffinitySum
from teacher_cache.labels.affinity_rule import (
    AffinityRule,
    calibration_rows_views,
    num_calibration_views,
)
from teacher_cache.labels.arrays import LabelArrays
from teacher_cache.labels.codec import encode
from teacher_cache.labels.encodings import AFFINITY_VALUES
from teacher_cache.models.teacher import Teacher


def calibrate(
    pool: RenderPool,
    teacher: Teacher,
    rule: AffinityRule,
    *,
    batch_size: int,
    advance: Callable[[int], None],
) -> LabelArrays:
    """Return the class affinity of a teacher as it is stored: (C + 1, entries) twice, (C + 1,).

    Args:
        pool: Processes that render views of the dataset.
        teacher: Teacher whose affinity is calibrated.
        rule: Rule of the calibration; see labels/affinity_rule.py.
        batch_size: Number of views in one forward pass.
        advance: Called with the number of views used since the last call.

    Raises:
        TeacherCacheError: Views cannot be rendered or labelled; see `teacher_logits`.
    """
    num_classes = teacher.spec.num_classes
    num_rows, num_views = len(pool.renderer.dataset), num_calibration_views(rule, num_classes)
    rows_N, views_N = calibration_rows_views(num_rows, num_views)
    stops = range(batch_size, len(rows_N), batch_size)
    parts = zip(np.split(rows_N, stops), np.split(views_N, stops), strict=True)
    total = AffinitySum()
    loads = [[ViewIds(rows_B, views_B)] for rows_B, views_B in parts]
    for batch, logits_BC in teacher_logits(pool, teacher, loads, what="the calibration views"):
        total.add(logits_BC)
        advance(len(batch.rows_B))
    return encode(total.rows(rule["entries"]), num_classes, AFFINITY_VALUES)
