"""How a class affinity is calibrated, in integers: which views, and how many classes are kept of a row."""

from __future__ import annotations

from typing import Annotated, TypedDict

import numpy as np
import numpy.typing as npt
from msgspec import Meta

ENTRIES = 128
"""Classes kept of a row: fewer cost fidelity, more gain none (docs/labels.md)."""
VIEWS_PER_CLASS = 20
"""Views calibrated on, per class: more gain little (docs/labels.md)."""


class AffinityRule(TypedDict):
    """How an affinity is calibrated.

    Attributes:
        entries: Classes kept of a row.
        views_per_class: Views calibrated on, times the classes.
    """

    entries: Annotated[int, Meta(ge=1, le=2**16)]
    views_per_class: Annotated[int, Meta(ge=1, le=2**16)]


def affinity_rule(k: int, num_classes: int) -> AffinityRule | None:
    """Return how an archive's affinity is calibrated, as its spec says it; None where no label has a tail."""
    if k == num_classes:
        return None
    return {"entries": min(ENTRIES, num_classes), "views_per_class": VIEWS_PER_CLASS}


def calibration_rows_views(
    num_rows: int, num_views: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the fixed set of views: rows (N,) and view indices (N,).

    Rows evenly over the dataset, each in view 0; where there are fewer rows than views, all rows in view 0,
    then in view 1, and so on.
    """
    numbers_N = np.arange(num_views, dtype=np.int64)
    if num_views <= num_rows:
        return numbers_N * num_rows // num_views, np.zeros_like(numbers_N)
    return numbers_N % num_rows, numbers_N // num_rows


def num_calibration_views(rule: AffinityRule, num_classes: int) -> int:
    """Return how many views an affinity is calibrated on."""
    return rule["views_per_class"] * num_classes
