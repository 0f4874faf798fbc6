"""Sums over labels: figures of each row over all its views, and sums of each view over all rows.

Shapes: R rows, V views, K classes kept, C classes in all.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from teacher_cache.archive.figures.figures import BINS
from teacher_cache.exact.compiled import compiled

_Ints = npt.NDArray[np.int64]
_Array = npt.NDArray[Any]
_Floats = npt.NDArray[np.float32]


class RowFigures(NamedTuple):
    """Figures of single rows.

    Attributes:
        teacher_class_R: Most probable class in the mean over the views, int32.
        confidence_R: Probability of that class in the mean, float32.
        true_probability_R: Mean probability of the true class, float32; NaN without labels.
        margin_R: Mean probability of the true class minus the highest other, float32; NaN without labels.
        disagreement_R: Jensen-Shannon divergence between the views in nats, float32: 0 if all are equal.
        agreed_R: Number of views whose top class is the true class, int32.
    """

    teacher_class_R: npt.NDArray[np.int32]
    confidence_R: _Floats
    true_probability_R: _Floats
    margin_R: _Floats
    disagreement_R: _Floats
    agreed_R: npt.NDArray[np.int32]


class ViewSums(NamedTuple):
    """Sums over rows, for each view: float64 (V,), and histograms over all views, int64 (BINS,)."""

    agreed_V: npt.NDArray[np.float64]
    confidence_V: npt.NDArray[np.float64]
    entropy_V: npt.NDArray[np.float64]
    tail_V: npt.NDArray[np.float64]
    confidences: _Ints
    entropies: _Ints
    tails: _Ints


def sum_rows(
    class_ids_VRK: npt.NDArray[np.int32],
    probabilities_VRK: _Floats,
    tail_VR: _Floats,
    labels_R: _Ints,
    num_classes: int,
) -> tuple[RowFigures, ViewSums]:
    """Return row figures and view sums, with each tail spread evenly over the classes outside the top k.

    Args:
        class_ids_VRK: Classes of the labels, the most probable first.
        tail_VR: Probability outside of them.
        labels_R: True classes; negative where there is none.
    """
    num_views, num_rows, _ = class_ids_VRK.shape
    rows = RowFigures(
        teacher_class_R=np.zeros(num_rows, np.int32),
        confidence_R=np.zeros(num_rows, np.float32),
        true_probability_R=np.full(num_rows, np.nan, np.float32),
        margin_R=np.full(num_rows, np.nan, np.float32),
        disagreement_R=np.zeros(num_rows, np.float32),
        agreed_R=np.zeros(num_rows, np.int32),
    )
    views = ViewSums(
        agreed_V=np.zeros(num_views),
        confidence_V=np.zeros(num_views),
        entropy_V=np.zeros(num_views),
        tail_V=np.zeros(num_views),
        confidences=np.zeros(BINS, np.int64),
        entropies=np.zeros(BINS, np.int64),
        tails=np.zeros(BINS, np.int64),
    )
    _sum_rows(class_ids_VRK, probabilities_VRK, tail_VR, labels_R, num_classes, *rows, *views)
    return rows, views


@compiled
def _sum_rows(
    class_ids_VRK: _Array,
    probabilities_VRK: _Array,
    tail_VR: _Array,
    labels_R: _Array,
    num_classes: int,
    teacher_class_R: _Array,
    confidence_R: _Array,
    true_probability_R: _Array,
    margin_R: _Array,
    disagreement_R: _Array,
    agreed_R: _Array,
    agreed_V: _Array,
    confidence_V: _Array,
    entropy_V: _Array,
    tail_V: _Array,
    confidences: _Array,
    entropies: _Array,
    tails: _Array,
) -> None:
    num_views, num_rows, k = class_ids_VRK.shape
    others = num_classes - k
    most = math.log(max(num_classes, 2))
    sums_C = np.zeros(num_classes)
    last_row_C = np.full(num_classes, -1)
    touched = np.zeros(min(num_classes, num_views * k), np.int64)
    for row in range(num_rows):
        num_touched, even, entropies_sum, label = 0, 0.0, 0.0, labels_R[row]
        for view in range(num_views):
            tail = tail_VR[view, row]
            rest = tail / others if others > 0 else 0.0
            even += rest
            entropy = -tail * math.log(rest) if rest > 0 else 0.0
            for rank in range(k):
                class_id, p = class_ids_VRK[view, row, rank], probabilities_VRK[view, row, rank]
                if last_row_C[class_id] != row:
                    last_row_C[class_id] = row
                    sums_C[class_id] = 0.0
                    touched[num_touched] = class_id
                    num_touched += 1
                sums_C[class_id] += p - rest
                if p > 0:
                    entropy -= p * math.log(p)
            top = probabilities_VRK[view, row, 0]
            entropies_sum += entropy
            confidence_V[view] += top
            entropy_V[view] += entropy
            tail_V[view] += tail
            confidences[max(0, min(int(top * BINS), BINS - 1))] += 1
            entropies[max(0, min(int(entropy / most * BINS), BINS - 1))] += 1
            tails[max(0, min(int(tail * BINS), BINS - 1))] += 1
            if class_ids_VRK[view, row, 0] == label:
                agreed_V[view] += 1
                agreed_R[row] += 1
        even /= num_views
        mean_entropy = -(num_classes - num_touched) * even * math.log(even) if even > 0 else 0.0
        best_class, best, best_other = 0, -1.0, even if num_touched < num_classes else 0.0
        of_label = even
        for number in range(num_touched):
            class_id = touched[number]
            p = sums_C[class_id] / num_views + even
            if p > 0:
                mean_entropy -= p * math.log(p)
            if p > best or (p == best and class_id < best_class):
                best_class, best = class_id, p
            if class_id == label:
                of_label = p
            elif p > best_other:
                best_other = p
        teacher_class_R[row], confidence_R[row] = best_class, best
        disagreement_R[row] = max(0.0, mean_entropy - entropies_sum / num_views)
        if label >= 0:
            true_probability_R[row], margin_R[row] = of_label, of_label - best_other
