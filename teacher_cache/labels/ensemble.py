"""Mean of several teachers' probabilities, and its most probable class.

Cross-entropy is linear in the target, so the mean of the teachers' losses is the loss of their mean at
temperature 1. At another temperature tau the tempered probabilities are averaged: with t_i the probabilities
of teacher i, whole by a tail rule, and w_i its weight,

    t = sum over i of w_i t_i^(1/tau) / norm_i

Shapes: B views, C classes, A teachers.
"""

from __future__ import annotations

import math

import torch

from teacher_cache.labels.tail_rules import Tail
from teacher_cache.labels.tails import dense_probabilities
from teacher_cache.labels.topk import (
    AnyAffinity,
    AnyLabels,
    EnsembleAffinity,
    EnsembleLabels,
    OneAffinity,
    OneLabels,
)


def mean_log_probabilities(
    labels: EnsembleLabels, num_classes: int, *, temperature: float, tail: Tail, affinity: AnyAffinity
) -> torch.Tensor:
    """Return log t of all classes, float32 (B, C); -inf where no teacher gives a class any probability.

    Args:
        num_classes: Number of classes, C.
        temperature: Temperature tau.
        tail: Rule that spreads each teacher's tail mass.
        affinity: Class affinities of the archives; tail "affinity" needs one for each teacher with K < C.

    Raises:
        ValueError: For a teacher with K < C, the tail is "bucket", or "affinity" without a class affinity.
    """
    affinities = affinity.members if isinstance(affinity, EnsembleAffinity) else (None,) * len(labels.members)
    parts = [
        weight.log() + (_log_dense(one, num_classes, tail, its) / temperature).log_softmax(1)
        for one, its, weight in zip(labels.members, affinities, labels.weights_A, strict=True)
    ]
    return torch.stack(parts).logsumexp(0)


def top_classes(labels: AnyLabels, num_classes: int, *, tail: Tail, affinity: AnyAffinity) -> torch.Tensor:
    """Return the most probable class of each view, int64 (B,), for one teacher or for the mean of several.

    Args:
        labels: Labels of one teacher, or of several.
        num_classes: Number of classes, C.
        tail: Rule that spreads each teacher's tail mass; one teacher's own top class needs none.
        affinity: Class affinities of the archives.

    Raises:
        ValueError: See `mean_log_probabilities`.
    """
    if not isinstance(labels, EnsembleLabels):
        return labels.class_ids_BK[:, 0].long()
    mean_BC = mean_log_probabilities(labels, num_classes, temperature=1.0, tail=tail, affinity=affinity)
    return mean_BC.argmax(1)


def _log_dense(labels: OneLabels, num_classes: int, tail: Tail, affinity: OneAffinity) -> torch.Tensor:
    """Return the logarithm of one teacher's probabilities of all classes, (B, C), by a tail rule."""
    class_ids_BK = labels.class_ids_BK.long()
    if class_ids_BK.shape[1] == num_classes or tail == "renormalised":
        nothing_BC = torch.full((len(class_ids_BK), num_classes), -math.inf, device=class_ids_BK.device)
        return nothing_BC.scatter(1, class_ids_BK, labels.relative_logits_BK.log_softmax(1))
    if tail == "bucket":
        raise ValueError("tail 'bucket' for several teachers, whose buckets differ: choose 'uniform'")
    if tail == "affinity" and affinity is None:
        raise ValueError(
            f"tail 'affinity' needs the affinity of archives whose labels keep under {num_classes} classes: "
            "pass affinity=..., or another tail such as 'uniform'"
        )
    return dense_probabilities(labels, num_classes, affinity if tail == "affinity" else None).log()
