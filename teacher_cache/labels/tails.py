"""Spread a label's tail mass over the classes it does not name, by one of four rules.

With p the probabilities of the k kept classes, m the tail mass, and O the C - k classes outside:

    affinity      t_c = m a_c / sum over O of a; a is given by labels/components.py, or else by
                  log a = b sum over kept j of (p_j / sum of p) log A[j] + (1 - b) log A[C]
                  b = 1 + 0.4 (1 - k / C)^2
    uniform       t_c = m / (C - k)
    bucket        only the sum over O is known: m
    renormalised  t_c = 0, and p is divided by its sum

A is the archive's class affinity (labels/affinity.py), and A[C] its mean output. a is a geometric mean of the
rows of the kept classes, sharpened away from the mean output, because a class that several rows name is
likelier than each row alone tells. Kept classes have t_c = p_c, except when renormalised. The rule is chosen
for training and is not part of the archive.

Shapes: B views, K kept, C classes, R = C + 1 rows of A, N entries of each, J = K + 1 rows used by a label.
"""

from __future__ import annotations

import math

import torch

from teacher_cache.labels.components import tail_logits
from teacher_cache.labels.encodings import NO_TAIL, VALUE_STEP
from teacher_cache.labels.topk import Basis, Labels, OneAffinity, OneLabels

_LEAST_TAIL = math.exp(-NO_TAIL * VALUE_STEP)
"""Least tail mass of a row of the affinity, used in place of 0 so that the logarithm is finite."""
_MOST_SHARPENING = 0.4
"""Upper bound of b - 1: a higher one gains at small k and loses as much at large k (docs/labels.md)."""


def sharpening(k: int, num_classes: int) -> float:
    """Return the exponent b, which falls with k: the more classes are kept, the less they tell of others."""
    return 1 + _MOST_SHARPENING * (1 - k / num_classes) ** 2


def dense_probabilities(
    labels: OneLabels, num_classes: int, affinity: OneAffinity, power: float | None = None
) -> torch.Tensor:
    """Return t of all classes, (B, C), the tail spread by the affinity or basis, or evenly without one.

    Args:
        num_classes: Number of classes, C.
        affinity: Class affinity or basis of the archive, or None.
        power: Exponent b of a class affinity; None takes the value of `sharpening`.

    Raises:
        ValueError: There is a basis, and the labels have no codes in it.
    """
    class_ids_BK = labels.class_ids_BK.long()
    count, k = class_ids_BK.shape
    kept_BK = labels.probabilities()
    if k == num_classes:
        return torch.empty(count, num_classes, device=kept_BK.device).scatter(1, class_ids_BK, kept_BK)
    if affinity is None:
        shape_BC = torch.ones(count, num_classes, device=kept_BK.device)
    elif isinstance(affinity, Basis):
        shape_BC = tail_logits(labels, affinity).scatter(1, class_ids_BK, -math.inf).softmax(1)
    else:
        power = sharpening(k, num_classes) if power is None else power
        shape_BC = _affinity_shape(labels, num_classes, affinity, power)
    shape_BC = shape_BC.scatter(1, class_ids_BK, 0.0)
    tail_BC = shape_BC * (labels.tail_B / shape_BC.sum(1))[:, None]
    return tail_BC.scatter(1, class_ids_BK, kept_BK)


def _affinity_shape(labels: OneLabels, num_classes: int, affinity: Labels, power: float) -> torch.Tensor:
    """Return a for the classes outside a label, (B, C), up to a factor per view; 0 for its own classes."""
    entries = affinity.class_ids_BK.shape[1]
    rows_RN = affinity.log_probabilities()
    rest_R = (affinity.tail_B.clamp_min(_LEAST_TAIL) / max(num_classes - entries, 1)).log()
    rest_R = rest_R.minimum(rows_RN[:, -1])
    classes_BK = labels.class_ids_BK.long()
    mean_B1 = torch.full_like(classes_BK[:, :1], num_classes)
    rows_BJ = torch.cat([classes_BK, mean_B1], dim=1)
    weights_BK = power * labels.relative_logits_BK.softmax(1)
    weights_BJ = torch.cat([weights_BK, torch.full_like(weights_BK[:, :1], 1 - power)], dim=1)
    above_BJN = (rows_RN - rest_R[:, None])[rows_BJ] * weights_BJ[:, :, None]
    ids_BM = affinity.class_ids_BK.long()[rows_BJ].flatten(1)
    shape_BC = torch.zeros(len(classes_BK), num_classes, device=ids_BM.device)
    shape_BC.scatter_add_(1, ids_BM, above_BJN.flatten(1))
    others_BC = shape_BC.scatter(1, classes_BK, -math.inf)
    return (others_BC - others_BC.amax(1, keepdim=True)).exp()
