"""Names of the rules that spread a label's tail mass over the classes it does not name: tails.py."""

from __future__ import annotations

from typing import Literal

Tail = Literal["affinity", "uniform", "bucket", "renormalised"]

DEFAULT_TAIL: Tail = "affinity"
"""Rule that keeps labels closest to the teacher (docs/labels.md)."""
