"""Loss terms of the teacher by name: the choices of --distillation besides "none".

A term is a function (student logits (B, C), labels, objective) -> scalar loss. It imports torch when it is
called, so that parsing the flags does not import torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

    from student.losses import Objective
    from teacher_cache.labels.topk import AnyLabels


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
