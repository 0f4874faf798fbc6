"""Distillation losses from sparse labels (Touvron et al., "Training data-efficient image transformers &
distillation through attention", ICML 2021, section 4), never made dense.

With student logits Z, true label y, teacher probabilities t, alpha = lambda, tau = temperature:

    soft, eq. 2:  (1 - alpha) CE(softmax(Z), y) + alpha tau^2 KL(t^(1/tau) / norm || softmax(Z / tau))
    hard, eq. 3:  (1 - alpha) CE(softmax(Z), y) + alpha CE(softmax(Z), argmax t)

With a distillation head the teacher's term acts on it, and the true label's on the class head. The factor
tau^2 keeps the gradients of the soft term as large as those of the hard one. Both terms are means over the
samples; DeiT's own code divides its KL by the number of classes too (losses.py, `/ outputs_kd.numel()`),
which makes it C times smaller than the paper's. Label smoothing acts on y alone. Of a mixed view y is mixed
too; t needs no mixing, for the teacher saw the mixed view.

Shapes: B samples, C classes, K classes kept of a label.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812  # as torch's own documentation names it

from student.config import Distillation
from student.model import Heads
from teacher_cache.batch import Targets
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
    """
    label = label_term(heads.class_BC.float(), targets, smoothing)
    student_BC = heads.class_BC if heads.distillation_BC is None else heads.distillation_BC
    if kind == "none" or labels is None:
        # without a teacher a second head learns the true labels too, or it would stay random
        second = label_term(student_BC.float(), targets, smoothing)
        label = (label + second) / 2
        return Loss(label, label, torch.zeros_like(label))
    term = (
        hard_term(student_BC.float(), labels)
        if kind == "hard"
        else soft_term(student_BC.float(), labels, tau)
    )
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


def soft_term(logits_BC: torch.Tensor, labels: Labels, tau: float) -> torch.Tensor:
    """Return tau^2 KL(t^(1/tau) / norm || softmax(Z / tau)), the tail spread evenly over the other classes.

    The sum over the C - K classes outside the label needs none of them by name: the teacher gives each the
    same probability, so only the sum of the student's log-probabilities is needed.
    """
    num_classes, k = logits_BC.shape[1], labels.class_ids_BK.shape[1]
    student_BC = F.log_softmax(logits_BC / tau, dim=1)
    student_BK = student_BC.gather(1, labels.class_ids_BK.long())
    kept_B = (1 - labels.tail_B).log()
    teacher_BK = (F.log_softmax(labels.relative_logits_BK, dim=1) + kept_B[:, None]) / tau
    if k == num_classes:
        teacher_BK = teacher_BK.log_softmax(1)
        return tau**2 * (teacher_BK.exp() * (teacher_BK - student_BK)).sum(1).mean()
    outside = num_classes - k
    each_B = (labels.tail_B.clamp_min(torch.finfo(torch.float32).tiny) / outside).log() / tau
    norm_B = torch.logsumexp(torch.cat([teacher_BK, (each_B + math.log(outside))[:, None]], dim=1), dim=1)
    teacher_BK, each_B = teacher_BK - norm_B[:, None], each_B - norm_B
    inside_B = (teacher_BK.exp() * (teacher_BK - student_BK)).sum(1)
    outside_B = each_B.exp() * (outside * each_B - (student_BC.sum(1) - student_BK.sum(1)))
    return tau**2 * (inside_B + outside_B).mean()
