"""Loss terms of the teacher by name: the choices of --distillation besides "none".

A term is a function in student/losses.py, named here as an entry point so that flags need no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

TERMS: Mapping[str, str] = {
    "soft": "student.losses:soft_term",
    "hard": "student.losses:hard_term",
}
"""Entry points of functions (student logits (B, C), labels, objective) -> scalar loss."""

if TYPE_CHECKING:
    Distillation = str
else:
    Distillation = Literal["none", *TERMS]
