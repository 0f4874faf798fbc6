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

from typing import NamedTuple

import torch

from student.model import Heads
from student.terms import TERMS, Objective
from teacher_cache.batches.batch import Targets
from teacher_cache.labels.topk import AnyLabels


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
