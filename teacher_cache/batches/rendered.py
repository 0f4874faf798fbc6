"""Rendered batches as NumPy arrays: what a process that renders sends, without torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from teacher_cache.views.finishing import Finishing

Pixels = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Empty: TypeAlias = Callable[[int], Pixels]
"""Function from a number of bytes to an uninitialised uint8 array of that size, for pixels."""


class ViewIds(NamedTuple):
    """Row and view index of each of B views: int64."""

    rows_B: Ints
    views_B: Ints


Load: TypeAlias = Sequence[ViewIds]
"""Batches that are rendered together because they share their images."""


class RenderedBatch(NamedTuple):
    """B rendered views.

    Attributes:
        images_RHWC: The B views, then partners from outside the batch, uint8 RGB.
        finishing: Erasing and mixing of these views; None where the recipe does neither.
        own_B: int64, class ids of the views' own samples; -1 for samples without a label.
        partner_B: int64, class ids of the samples that they are mixed with.
        weight_B: float32, weight of the own class; None where the recipe does not mix.
        rows_B, views_B: int64, rows and view indices.
        labels: Teacher labels as stored, which the archive's `decode` takes; None without an archive.
    """

    images_RHWC: Pixels
    finishing: Finishing[npt.NDArray] | None
    own_B: Ints
    partner_B: Ints
    weight_B: npt.NDArray[np.float32] | None
    rows_B: Ints
    views_B: Ints
    labels: Any = None


def allocate(num_bytes: int) -> Pixels:
    """Return an uninitialised uint8 array of `num_bytes` in this process's own memory."""
    return np.empty(num_bytes, np.uint8)
