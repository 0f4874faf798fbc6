"""Distillation losses from sparse labels (Touvron et al., "Training data-efficient image transformers &
distillation through attention", ICML 2021, section 4).

With student logits Z, true label y, teacher probabilities t, alpha = lambda, tau = temperature:

    soft, eq. 2:  (1 - alpha) CE(softmax(Z), y) + alpha tau^2 KL(t^(1/tau) / norm || softmax(Z / tau))
    hard, eq. 3:  (1 - alpha) CE(softmax(Z), y) + alpha CE(softmax(Z), argmax t)

With a distillation head the teacher's term acts on it, and the true label's on the class head. The factor
tau^2 keeps the gradients of the soft term as large as those of the hard one. Both terms are means over the
samples; DeiT's own code divides its KL by the number of classes too (losses.py, `/ outputs_kd.numel()`),
which makes it C times smaller than the paper's: `--kd-reduction numel`. Label smoothing acts on y alone. Of a
mixed view y is mixed too; t needs no mixing, for the teacher saw the mixed view.

A stored t names K classes; teacher_cache/labels/tails.py says what t is of the others, by the rule `tail`:
with s = softmax(Z / tau), u = t^(1/tau) / norm, and O the classes a label does not name,

    affinity, uniform   KL = sum over all classes of u log(u / s)
    bucket              KL = sum over K of u log(u / s) + U log(U / S), U and S the sums over O of u and s;
                        u in O is taken as uniform
    renormalised        KL = sum over K of u log(u / s), where t is 0 in O, and u sums to 1 over K

With K = C all four are the KL to the teacher itself. Only `affinity` makes t dense, for it differs in each
class; the others need of O just sums of the student's.

Shapes: B samples, C classes, K classes kept of a label.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  # as torch's own documentation names it

from student.config import Distillation, Reduction, Tail
from student.model import Heads
from teacher_cache.batches.batch import Targets
from teacher_cache.labels.tails import dense_probabilities, kept_log_probabilities
from teacher_cache.labels.topk import Labels


class Loss(NamedTuple):
    """A loss and its two terms, before weighting; each a scalar tensor."""

    total: torch.Tensor
    label: torch.Tensor
    distillation: torch.Tensor


def distillation_loss(
    heads: Heads,
    targets: Targets,
    labels: Labels | None,
    kind: Distillation,
    *,
    alpha: float,
    tau: float,
    smoothing: float,
    tail: Tail = "uniform",
    affinity: Labels | None = None,
    reduction: Reduction = "batchmean",
) -> Loss:
    """Return the loss of a batch.

    Args:
        heads: The student's logits.
        targets: The true classes.
        labels: The teacher's, unless kind is "none".
        kind: Which of the formulas above; "none" is CE(softmax(Z), y), averaged over the heads.
        alpha: Weight of the teacher's term.
        tau: Temperature of the soft term.
        smoothing: Of the true classes.
        tail: What the soft term takes labels to say of classes they do not name.
        affinity: The archive's, which tail "affinity" needs.
        reduction: Of the soft term: "numel" divides it by the number of classes too.
    """
    label = label_term(heads.class_BC.float(), targets, smoothing)
    student_BC = heads.taught_BC
    if kind == "none" or labels is None:
        # without a teacher a second head learns the true labels too, or it would stay random
        second = label_term(student_BC.float(), targets, smoothing)
        label = (label + second) / 2
        return Loss(label, label, torch.zeros_like(label))
    term = (
        hard_term(student_BC.float(), labels)
        if kind == "hard"
        else soft_term(student_BC.float(), labels, tau, tail, affinity)
    )
    if reduction == "numel":
        term = term / student_BC.shape[1]
    return Loss((1 - alpha) * label + alpha * term, label, term)


def label_term(logits_BC: torch.Tensor, targets: Targets, smoothing: float) -> torch.Tensor:
    """Return CE(softmax(Z), y); of a mixed view y is mixed as the view is (timm/data/mixup.py)."""
    own = F.cross_entropy(logits_BC, targets.own_B, label_smoothing=smoothing, reduction="none")
    if targets.weight_B is None:
        return own.mean()
    partner = F.cross_entropy(logits_BC, targets.partner_B, label_smoothing=smoothing, reduction="none")
    return (targets.weight_B * own + (1 - targets.weight_B) * partner).mean()


def hard_term(logits_BC: torch.Tensor, labels: Labels) -> torch.Tensor:
    """Return CE(softmax(Z), argmax t): rank 0 is the argmax by construction, whatever the values round to."""
    return F.cross_entropy(logits_BC, labels.class_ids_BK[:, 0].long())


def soft_term(
    logits_BC: torch.Tensor,
    labels: Labels,
    tau: float,
    tail: Tail = "uniform",
    affinity: Labels | None = None,
) -> torch.Tensor:
    """Return tau^2 KL(t^(1/tau) / norm || softmax(Z / tau)), the mean over the samples."""
    num_classes, k = logits_BC.shape[1], labels.class_ids_BK.shape[1]
    student_BC = F.log_softmax(logits_BC / tau, dim=1)
    if tail == "affinity" and k < num_classes:
        if affinity is None:
            raise ValueError("labels of some of the classes need the archive's affinity")
        teacher_BC = F.log_softmax(dense_probabilities(labels, num_classes, affinity).log() / tau, dim=1)
        return tau**2 * _kl(teacher_BC, student_BC).mean()
    student_BK = student_BC.gather(1, labels.class_ids_BK.long())
    if tail == "renormalised" or k == num_classes:
        return tau**2 * _kl(F.log_softmax(labels.relative_logits_BK / tau, dim=1), student_BK).mean()
    outside = num_classes - k
    teacher_BK = kept_log_probabilities(labels) / tau
    each_B = (labels.tail_B.clamp_min(torch.finfo(torch.float32).tiny) / outside).log() / tau
    norm_B = torch.logsumexp(torch.cat([teacher_BK, (each_B + math.log(outside))[:, None]], dim=1), dim=1)
    teacher_BK, each_B = teacher_BK - norm_B[:, None], each_B - norm_B
    if tail == "uniform":
        others_B = student_BC.sum(1) - student_BK.sum(1)
        of_others_B = each_B.exp() * (outside * each_B - others_B)
    else:
        others_BC = student_BC.scatter(1, labels.class_ids_BK.long(), -math.inf)
        of_others_B = _kl((each_B + math.log(outside))[:, None], others_BC.logsumexp(1)[:, None])
    return tau**2 * (_kl(teacher_BK, student_BK) + of_others_B).mean()


def _kl(teacher_BN: torch.Tensor, student_BN: torch.Tensor) -> torch.Tensor:
    """Return the sum over N of u log(u / s), from their logarithms; 0 where u is 0."""
    share_BN = teacher_BN.exp()
    return (share_BN * (teacher_BN - student_BN)).where(share_BN > 0, 0.0).sum(1)
