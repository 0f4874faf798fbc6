"""Rule of a class affinity's calibration, in integers: the views used, and the classes kept of a row."""

from __future__ import annotations

from typing import Annotated, TypedDict

import numpy as np
import numpy.typing as npt
from msgspec import Meta

ENTRIES = 128
"""Number of classes kept of a row: fewer cost fidelity, more gain none (docs/labels.md)."""
VIEWS_PER_CLASS = 20
"""Number of calibration views per class: more gain little (docs/labels.md)."""


class AffinityRule(TypedDict):
    """Rule of an affinity's calibration.

    Attributes:
        entries: Number of classes kept of a row.
        views_per_class: Number of calibration views per class.
    """

    entries: Annotated[int, Meta(ge=1, le=2**16)]
    views_per_class: Annotated[int, Meta(ge=1, le=2**16)]


def affinity_rule(k: int, num_classes: int) -> AffinityRule | None:
    """Return the calibration rule for an archive's spec; None where no label has a tail."""
    if k == num_classes:
        return None
    return {"entries": min(ENTRIES, num_classes), "views_per_class": VIEWS_PER_CLASS}


def calibration_rows_views(
    num_rows: int, num_views: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the fixed set of calibration views: rows (N,) and view indices (N,).

    Rows are spread evenly over the dataset, each in view 0; if there are fewer rows than views, all rows are
    taken in view 0, then in view 1, and so on.
    """
    numbers_N = np.arange(num_views, dtype=np.int64)
    if num_views <= num_rows:
        return numbers_N * num_rows // num_views, np.zeros_like(numbers_N)
    return numbers_N % num_rows, numbers_N // num_rows


def num_calibration_views(rule: AffinityRule, num_classes: int) -> int:
    """Return the number of views that an affinity is calibrated on."""
    return rule["views_per_class"] * num_classes
