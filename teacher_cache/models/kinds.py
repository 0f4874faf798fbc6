"""Kinds of teachers, by the prefix in timm:NAME, hf:OWNER/NAME, clip:MODEL/TAG and python:MODULE:FACTORY."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Precision = Literal["auto", "float32", "bfloat16"]
"""Types of a teacher's forward pass; auto takes bfloat16 on CUDA, float32 elsewhere."""

DEFAULT_KIND = "timm"
"""Kind of a name without a prefix."""

KINDS: Mapping[str, str] = {
    "timm": "teacher_cache.models.timm_teacher:build",
    "hf": "teacher_cache.models.hf_teacher:build",
    "clip": "teacher_cache.models.clip_teacher:build",
    "python": "teacher_cache.models.python_teacher:build",
}
"""Entry points of functions from a TeacherRequest to a TeacherModel, by kind."""


def kind_and_name(teacher: str) -> tuple[str, str]:
    """Return the kind of a teacher, and its name without the kind; prefixes of timm's own stay."""
    kind, _, name = teacher.partition(":")
    return (kind, name) if kind in KINDS else (DEFAULT_KIND, teacher)
