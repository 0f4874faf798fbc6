"""Loss of a batch: true labels and teacher labels together (Touvron et al., ICML 2021, section 4).

With student logits Z, true label y, teacher probabilities t, alpha = lambda, tau = temperature:

    soft, eq. 2:  (1 - alpha) CE(softmax(Z), y) + alpha tau^2 KL(t^(1/tau) / norm || softmax(Z / tau))
    hard, eq. 3:  (1 - alpha) CE(softmax(Z), y) + alpha CE(softmax(Z), argmax t)

teacher_cache/labels/losses.py has the teacher's terms. With a distillation head the teacher's term acts on
that head, and the true label's term on the class head. DeiT's own code also divides the KL by the number of
classes (losses.py, `/ outputs_kd.numel()`), C times less than in the paper: `--kd-reduction numel`.
Label smoothing acts on y alone. For a mixed view y is mixed too; t needs no mixing, because the teacher saw
the mixed view.

Shapes: B samples, C classes, K classes kept of a label.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch

from student.model import Heads
from student.terms import TERMS, Distillation
from teacher_cache.batches.batch import Targets
from teacher_cache.labels.tail_rules import DEFAULT_TAIL, Tail
from teacher_cache.labels.topk import AnyAffinity, AnyLabels


@dataclasses.dataclass(frozen=True)
class Objective:
    """Loss to minimise.

    Attributes:
        kind: Name of the teacher's term in TERMS; "none" is CE(softmax(Z), y), averaged over the heads.
        alpha: Weight of the teacher's term; the true labels' term has the rest.
        tau: Temperature of the soft term.
        tail: Rule that spreads a label's tail mass, for the soft term.
        affinity: Class affinity of the archive, or of several, which tail "affinity" needs.
        divides_by_classes: Whether the teacher's term is divided by the number of classes, as in DeiT's code.
        has_true_labels: Whether samples have labels of their own; without them that term is 0.
    """

    kind: Distillation = "none"
    alpha: float = 0.5
    tau: float = 3.0
    smoothing: float = 0.0
    tail: Tail = DEFAULT_TAIL
    affinity: AnyAffinity = None
    divides_by_classes: bool = False
    has_true_labels: bool = True


class Loss(NamedTuple):
    """A loss and its two terms before weighting, each a scalar tensor."""

    total: torch.Tensor
    label: torch.Tensor
    distillation: torch.Tensor


def distillation_loss(heads: Heads, targets: Targets, labels: AnyLabels | None, objective: Objective) -> Loss:
    """Return the loss of a batch.

    Args:
        labels: Teacher labels, unless the objective's kind is "none".
    """
    student_BC = heads.taught_BC.float()
    label = torch.zeros((), device=student_BC.device)
    if objective.has_true_labels:
        label = targets.cross_entropy(heads.class_BC.float(), objective.smoothing)
    if objective.kind == "none" or labels is None:
        # without a teacher a second head learns the true labels too, or it would stay random
        second = targets.cross_entropy(student_BC, objective.smoothing)
        label = (label + second) / 2
        return Loss(label, label, torch.zeros_like(label))
    term = TERMS[objective.kind](student_BC, labels, objective)
    if objective.divides_by_classes:
        term = term / student_BC.shape[1]
    return Loss((1 - objective.alpha) * label + objective.alpha * term, label, term)
