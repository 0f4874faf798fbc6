"""Rule of the calibration, in integers: the views used, the parts they are cut into, the classes kept."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt
from msgspec import Meta

ENTRIES = 128
"""Number of classes kept of a row: fewer cost fidelity, more gain none (docs/labels.md)."""
VIEWS_PER_CLASS = 20
"""Number of calibration views per class: more gain little (docs/labels.md)."""
_MOST_VIEWS = 2**18
"""Number of calibration views that are held in memory at most: half a gigabyte."""
_MOST_ENTRIES = 2**24
"""Largest number of entries in all rows together, so that readers accept an array of them as one chunk."""
_DIRECTIONS = 256
"""Directions of a basis: those without codes tell what kept classes say of the others (docs/labels.md)."""
_CODE_SIZE = 4.5
"""Nats between two codes at 1,000 classes (docs/decisions/0036)."""
_FIT_TEMPERATURE, _FIT_LEAST = 4.0, 0.2
"""Weights of classes when codes are fitted, for losses at temperatures 1 to 3 (docs/decisions/0036)."""
_LEAST_COMPONENT_VIEWS, _MOST_COMPONENT_VIEWS = 1024, 4096
"""Calibration views of a basis: 4 per class between these; more gain little (docs/labels.md)."""
_MOST_VIEWS_OF_ROW = 16
"""Calibration views of one image: more tell little new (docs/labels.md)."""
_AGREEMENT_VIEWS = 1024
"""Number of calibration views without an affinity, where only agreement with true labels is measured."""
VIEWS_PER_PART = 256
"""Number of calibration views that are computed, kept and retried together."""


class AffinityRule(TypedDict):
    """Rule of an affinity's calibration.

    Attributes:
        entries: Number of classes kept of a row.
        views_per_class: Number of calibration views per class.
        max_views: Largest number of calibration views; absent if views_per_class is enough to limit them.
    """

    entries: Annotated[int, Meta(ge=1, le=2**16)]
    views_per_class: Annotated[int, Meta(ge=1, le=2**16)]
    max_views: NotRequired[Annotated[int, Meta(ge=1)]]


class ComponentRule(TypedDict):
    """Rule of a basis of components (labels/components.py), and of its calibration.

    Attributes:
        codes: Number of codes of a label.
        size: Nats between two codes.
        directions: Number of directions in the basis.
        max_views: Largest number of calibration views.
        fit_temperature: Temperature of the weights by which codes are fitted, T.
        fit_least: Least of these weights, a.
    """

    codes: Annotated[int, Meta(ge=1, le=2**12)]
    size: Annotated[float, Meta(gt=0, le=1e6)]
    directions: Annotated[int, Meta(ge=1, le=2**12)]
    max_views: Annotated[int, Meta(ge=1, le=2**18)]
    fit_temperature: Annotated[float, Meta(gt=0, le=1e6)]
    fit_least: Annotated[float, Meta(ge=1e-3, le=1)]


def component_rule(codes: int, num_classes: int, num_rows: int) -> ComponentRule:
    """Return the calibration rule for labels with some codes, of a teacher with C classes.

    Codes are as fine as the spread of one class needs, so finer where classes are few.
    """
    directions = min(max(_DIRECTIONS, codes), num_classes - 1)
    size = round(_CODE_SIZE * math.sqrt(num_classes / 1000), 4)
    views = min(max(_LEAST_COMPONENT_VIEWS, 4 * num_classes), _MOST_COMPONENT_VIEWS)
    views = min(views, _MOST_VIEWS_OF_ROW * num_rows)
    return {
        "codes": min(codes, directions),
        "size": size,
        "directions": directions,
        "max_views": views,
        "fit_temperature": _FIT_TEMPERATURE,
        "fit_least": _FIT_LEAST,
    }


def affinity_rule(k: int, num_classes: int, num_rows: int) -> AffinityRule | None:
    """Return the calibration rule for an archive's spec; None where no label has a tail.

    No image is used twice: with fewer than 20 images per class, calibration uses one view of each image.
    """
    if k == num_classes:
        return None
    entries = min(ENTRIES, num_classes, max(1, _MOST_ENTRIES // (num_classes + 1)))
    rule: AffinityRule = {"entries": entries, "views_per_class": VIEWS_PER_CLASS}
    most = min(num_rows, _MOST_VIEWS)
    return rule if most >= VIEWS_PER_CLASS * num_classes else {**rule, "max_views": most}


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


def num_calibration_views(rule: AffinityRule | ComponentRule | None, num_classes: int, num_rows: int) -> int:
    """Return the number of calibration views: the rule's, or enough to tell the agreement with labels."""
    if rule is None:
        return min(num_rows, _AGREEMENT_VIEWS)
    if "codes" in rule:
        return rule["max_views"]
    views = rule["views_per_class"] * num_classes
    return min(views, rule.get("max_views", views))


@dataclasses.dataclass(frozen=True, order=True, slots=True)
class CalibrationPart:
    """Calibration views [start, stop) of all `num_views`, which are computed, kept and retried together."""

    start: int
    stop: int
    num_views: int

    @property
    def name(self) -> str:
        """Name of the part in messages and of its object."""
        return f"calibration-{self.start // VIEWS_PER_PART:05d}"


def calibration_parts(num_views: int) -> list[CalibrationPart]:
    """Return the parts of a number of calibration views."""
    starts = range(0, num_views, VIEWS_PER_PART)
    return [CalibrationPart(start, min(start + VIEWS_PER_PART, num_views), num_views) for start in starts]
