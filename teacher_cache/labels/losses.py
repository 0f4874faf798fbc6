"""Distillation losses of a student's logits against sparse labels (Touvron et al., "Training data-efficient
image transformers & distillation through attention", ICML 2021, section 4).

With student logits Z, teacher probabilities t and temperature tau:

    soft  tau^2 KL(t^(1/tau) / norm || softmax(Z / tau))     the teacher's term of eq. 2
    hard  CE(softmax(Z), argmax t)                           the teacher's term of eq. 3

The factor tau^2 keeps the gradients of the soft loss as large as those of the hard one. Both are means over
the views. A stored t names K classes; labels/tails.py gives t of the other classes by a tail rule. With
s = softmax(Z / tau), u = t^(1/tau) / norm, and O the classes that a label does not name,

    affinity, uniform   KL = sum over all classes of u log(u / s)
    bucket              KL = sum over K of u log(u / s) + U log(U / S), U and S the sums over O of u and s;
                        u in O is taken as uniform
    renormalised        KL = sum over K of u log(u / s), where t is 0 in O, and u sums to 1 over K

With K = C all four are the KL to the teacher itself. Labels of several teachers are averaged first
(labels/ensemble.py). Only `affinity` makes t dense, because t differs in
each class; the other rules need only sums of the student's probabilities over O.

Shapes: B views, C classes, K classes kept of a label.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812  # as torch's own documentation names it

from teacher_cache.labels.ensemble import mean_log_probabilities, top_classes
from teacher_cache.labels.tail_rules import DEFAULT_TAIL, Tail
from teacher_cache.labels.tails import dense_probabilities
from teacher_cache.labels.topk import AnyAffinity, AnyLabels, Basis, EnsembleAffinity, EnsembleLabels


def hard_loss(
    logits_BC: torch.Tensor,
    labels: AnyLabels,
    *,
    tail: Tail = DEFAULT_TAIL,
    affinity: AnyAffinity = None,
) -> torch.Tensor:
    """Return the mean cross-entropy of the teacher's most probable class, a scalar.

    For one teacher this is rank 0, which rounding never changes. For several teachers it is the class with
    the largest mean probability, after their tails are spread.

    Args:
        logits_BC: Student logits, float32.
        labels: Teacher labels on the same device.
        tail: Rule that spreads the tail mass, for several teachers.
        affinity: Class affinities of the archives, on the same device, for several teachers.

    Raises:
        ValueError: The affinity or a label shows that the student's classes are not the teacher's; or for
            several teachers and K < C, the tail is "bucket", or "affinity" without an affinity.
    """
    _check_classes(logits_BC, labels, affinity)
    classes_B = top_classes(labels, logits_BC.shape[1], tail=tail, affinity=affinity)
    return F.cross_entropy(logits_BC, classes_B)


def soft_loss(
    logits_BC: torch.Tensor,
    labels: AnyLabels,
    *,
    temperature: float,
    tail: Tail = DEFAULT_TAIL,
    affinity: AnyAffinity = None,
) -> torch.Tensor:
    """Return the mean KL divergence from the tempered teacher to the tempered student, times temperature^2.

    Args:
        logits_BC: Student logits, float32.
        labels: Teacher labels on the same device.
        temperature: Temperature, tau of the module's formulas, above 0.
        tail: Rule that spreads the tail mass.
        affinity: Class affinity of the archive, on the same device; tail "affinity" needs it where K < C.

    Raises:
        ValueError: The temperature is not above 0; the affinity or a label shows that the student's classes
            are not the teacher's; the tail is "affinity", K < C, and there is no affinity; or there are
            several teachers and the tail is "bucket".
    """
    if temperature <= 0 or temperature == math.inf:
        raise ValueError(
            f"temperature {temperature}: logits are divided by it, so give a finite number above 0"
        )
    _check_classes(logits_BC, labels, affinity)
    num_classes = logits_BC.shape[1]
    student_BC = F.log_softmax(logits_BC / temperature, dim=1)
    if isinstance(labels, EnsembleLabels):
        mean_BC = mean_log_probabilities(
            labels, num_classes, temperature=temperature, tail=tail, affinity=affinity
        )
        return temperature**2 * _kl(mean_BC, student_BC).mean()
    k = labels.class_ids_BK.shape[1]
    if tail == "affinity" and k < num_classes:
        if affinity is None or isinstance(affinity, EnsembleAffinity):
            raise ValueError(
                f"tail 'affinity' needs the archive's affinity for labels of {k} of {num_classes} classes: "
                "pass affinity=..., or another tail such as 'uniform'"
            )
        dense_BC = dense_probabilities(labels, num_classes, affinity)
        teacher_BC = F.log_softmax(dense_BC.log() / temperature, dim=1)
        return temperature**2 * _kl(teacher_BC, student_BC).mean()
    student_BK = student_BC.gather(1, labels.class_ids_BK.long())
    if tail == "renormalised" or k == num_classes:
        teacher_BK = F.log_softmax(labels.relative_logits_BK / temperature, dim=1)
        return temperature**2 * _kl(teacher_BK, student_BK).mean()
    num_outside = num_classes - k
    teacher_BK = labels.log_probabilities() / temperature
    least_mass = torch.finfo(torch.float32).tiny
    each_B = (labels.tail_B.clamp_min(least_mass) / num_outside).log() / temperature
    outside_B = each_B + math.log(num_outside)
    norm_B = torch.logsumexp(torch.cat([teacher_BK, outside_B[:, None]], dim=1), dim=1)
    teacher_BK, each_B = teacher_BK - norm_B[:, None], each_B - norm_B
    if tail == "uniform":
        student_outside_B = student_BC.sum(1) - student_BK.sum(1)
        kl_outside_B = each_B.exp() * (num_outside * each_B - student_outside_B)
    else:
        outside_BC = student_BC.scatter(1, labels.class_ids_BK.long(), -math.inf)
        bucket_B1 = (each_B + math.log(num_outside))[:, None]
        kl_outside_B = _kl(bucket_B1, outside_BC.logsumexp(1)[:, None])
    return temperature**2 * (_kl(teacher_BK, student_BK) + kl_outside_B).mean()


def _kl(teacher_BN: torch.Tensor, student_BN: torch.Tensor) -> torch.Tensor:
    """Return the sum over N of u log(u / s), from log u and log s; terms are 0 where u is 0."""
    share_BN = teacher_BN.exp()
    return (share_BN * (teacher_BN - student_BN)).where(share_BN > 0, 0.0).sum(1)


def _check_classes(logits_BC: torch.Tensor, labels: AnyLabels, affinity: AnyAffinity) -> None:
    """Refuse labels of other classes than the student's, as far as that costs nothing on the device."""
    members = labels.members if isinstance(labels, EnsembleLabels) else (labels,)
    affinities = affinity.members if isinstance(affinity, EnsembleAffinity) else (affinity,)
    num_classes = logits_BC.shape[1]
    for one in affinities:
        if one is None:
            continue
        # the last row of a class affinity is the mean
        of = len(one.mean_C) if isinstance(one, Basis) else len(one.class_ids_BK) - 1
        if of != num_classes:
            raise ValueError(
                f"a student of {num_classes} classes, and labels of {of}: its outputs would mean other "
                "classes; make the model with num_classes=views.num_classes"
            )
    for each in members:
        ids_BK = each.class_ids_BK
        if ids_BK.device.type == "cpu" and ids_BK.numel() and int(ids_BK.max()) >= num_classes:
            raise ValueError(
                f"a label names class {int(ids_BK.max())}, and the student has {num_classes} classes: make "
                "the model with num_classes=views.num_classes"
            )
