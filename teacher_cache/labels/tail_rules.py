"""Names of the rules by which a label's tail mass is spread over the classes it does not name: tails.py."""

from __future__ import annotations

from typing import Literal

Tail = Literal["affinity", "uniform", "bucket", "renormalised"]

DEFAULT_TAIL: Tail = "affinity"
"""The rule that loses least (docs/labels.md)."""
