"""Class affinity: for each class, the other classes that a teacher gives probability along with it.

The affinity A is calibrated once per archive, from the teacher's probabilities p of a fixed set of views:

    A[c] = (sum over views of p_c p + half the mean p), divided by its sum over classes
    A[C] = mean p

So A[c] is the mean output weighted by p_c, or the mean output of all views if p_c is always 0. Each row is
stored like a label: its largest entries, and a tail that is spread evenly. The rows spread the tails of
labels without another byte per label: labels/tails.py.

No (C, C) array is made. Up to 1,024 classes, p has all classes; above, it has only the 256 most probable ones
of each view, and a row is summed over the views that keep its class.

Shapes: N views, M classes kept of a view, C classes, E entries of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from teacher_cache.labels.topk import Labels, labels_from_logits

_PRIOR_VIEWS = 0.5
"""Weight of the mean output in each row, in views, so that classes of probability 0 have a row too."""
_MOST_WHOLE = 1024
"""Largest number of classes for which the probabilities of all classes of a view are kept."""
_KEPT = 256
"""Number of classes kept of a view above _MOST_WHOLE classes: twice the entries of a row."""
_ROWS_AT_ONCE = 256
"""Number of rows that are multiplied together."""
_FLOOR = float(np.finfo(np.float32).tiny)

Floats = npt.NDArray[np.float64]


class Probabilities(NamedTuple):
    """Most probable classes of N views.

    Attributes:
        class_ids_NM: int32, class ids by falling probability.
        values_NM: float32, their probabilities.
    """

    class_ids_NM: npt.NDArray[np.int32]
    values_NM: npt.NDArray[np.float32]


def num_kept(num_classes: int) -> int:
    """Return the number of classes kept of a calibration view, M."""
    return num_classes if num_classes <= _MOST_WHOLE else _KEPT


def probabilities_of(logits_BC: torch.Tensor) -> Probabilities:
    """Return the most probable classes of B views from dense logits."""
    labels = labels_from_logits(logits_BC, num_kept(logits_BC.shape[1]))
    return Probabilities(labels.class_ids_BK.cpu().numpy(), labels.probabilities().float().cpu().numpy())


def affinity_rows(views: Probabilities, num_classes: int, entries: int) -> Labels:
    """Return the affinity: a label per class and one for the mean output, (C + 1, E).

    Args:
        num_classes: Number of classes, C.
        entries: Number of classes kept of a row, E.
    """
    flat_ids, flat_values = views.class_ids_NM.ravel(), views.values_NM.ravel()
    mean_C = np.bincount(flat_ids, flat_values, num_classes) / len(views.class_ids_NM)
    first_E = _largest(mean_C, np.arange(num_classes), entries)
    is_whole = views.class_ids_NM.shape[1] == num_classes
    sums = _whole_sums(views, num_classes) if is_whole else _sparse_sums(views, num_classes)
    ids_RE = np.empty((num_classes + 1, entries), np.int32)
    values_RE = np.empty((num_classes + 1, entries))
    mass_R = np.empty(num_classes + 1)
    mean_mass = mean_C.sum()
    for row, sum_C in enumerate(sums):
        if sum_C is None:
            continue
        near = np.union1d(np.flatnonzero(sum_C), first_E)
        row_E = _largest(sum_C[near] + _PRIOR_VIEWS * mean_C[near], near, entries)
        ids_RE[row], values_RE[row] = row_E, sum_C[row_E] + _PRIOR_VIEWS * mean_C[row_E]
        mass_R[row] = sum_C.sum() + _PRIOR_VIEWS * mean_mass
    named_C = np.bincount(flat_ids, minlength=num_classes) > 0
    is_mean_R = np.append(~named_C, True)
    ids_RE[is_mean_R], values_RE[is_mean_R], mass_R[is_mean_R] = first_E, mean_C[first_E], mean_mass
    values_RE = values_RE.clip(_FLOOR)
    tail_R = np.zeros(num_classes + 1)
    if entries < num_classes:
        tail_R = (1 - values_RE.sum(1) / mass_R).clip(0)
    relative_RE = np.log(values_RE) - np.log(values_RE[:, :1])
    parts = (ids_RE, relative_RE.astype(np.float32), tail_R.astype(np.float32))
    return Labels(*map(torch.from_numpy, parts))


def _largest(values: Floats, ids: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """Return the ids of the largest values, falling; of equal values the lower id is first."""
    return ids[np.lexsort((ids, -values))[:count]]


def _whole_sums(views: Probabilities, num_classes: int) -> Iterator[Floats]:
    """Yield for each class c the sum over views of p_c p, where p has all classes."""
    dense_NC = np.zeros((len(views.class_ids_NM), num_classes))
    np.put_along_axis(dense_NC, views.class_ids_NM.astype(np.int64), views.values_NM, 1)
    for start in range(0, num_classes, _ROWS_AT_ONCE):
        yield from dense_NC[:, start : start + _ROWS_AT_ONCE].T @ dense_NC


def _sparse_sums(views: Probabilities, num_classes: int) -> Iterator[Floats | None]:
    """Yield for each class c the sum of p_c p over the views that keep c; None if no view does."""
    order = np.argsort(views.class_ids_NM.ravel(), kind="stable")
    stops = np.cumsum(np.bincount(views.class_ids_NM.ravel(), minlength=num_classes))
    weights = views.values_NM.ravel()[order]
    of_view = (order // views.class_ids_NM.shape[1]).astype(np.int32)
    for start, stop in zip(np.append(0, stops[:-1]), stops, strict=True):
        if start == stop:
            yield None
            continue
        some = of_view[start:stop]
        products = views.values_NM[some] * weights[start:stop, None]
        yield np.bincount(views.class_ids_NM[some].ravel(), products.ravel(), num_classes).astype(float)
