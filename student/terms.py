"""Loss to minimise, and the teacher's terms in it by name: the choices of --distillation besides "none".

A term is a function (student logits (B, C), labels, objective) -> scalar loss. It imports torch when it is
called, so that parsing the flags does not import torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from teacher_cache.labels.tail_rules import DEFAULT_TAIL, Tail

if TYPE_CHECKING:
    import torch

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

    kind: str = "none"
    alpha: float = 0.5
    tau: float = 3.0
    smoothing: float = 0.0
    tail: Tail = DEFAULT_TAIL
    affinity: AnyAffinity = None
    divides_by_classes: bool = False
    has_true_labels: bool = True


def soft_term(logits_BC: torch.Tensor, labels: AnyLabels, objective: Objective) -> torch.Tensor:
    """Return the teacher's term of eq. 2 of Touvron et al., ICML 2021."""
    from teacher_cache import soft_loss

    tail, affinity = objective.tail, objective.affinity
    return soft_loss(logits_BC, labels, temperature=objective.tau, tail=tail, affinity=affinity)


def hard_term(logits_BC: torch.Tensor, labels: AnyLabels, objective: Objective) -> torch.Tensor:
    """Return the teacher's term of eq. 3 of Touvron et al., ICML 2021."""
    from teacher_cache import hard_loss

    return hard_loss(logits_BC, labels, tail=objective.tail, affinity=objective.affinity)


TERMS: Mapping[str, Callable[[torch.Tensor, AnyLabels, Objective], torch.Tensor]] = {
    "soft": soft_term,
    "hard": hard_term,
}

if TYPE_CHECKING:
    Distillation = str
else:
    Distillation = Literal["none", *TERMS]
