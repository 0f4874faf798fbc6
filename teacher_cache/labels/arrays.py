"""Three arrays of stored labels, and their types (docs/archive-format.md).

idx     u16 (u32 above 65,535 classes)   class ids by falling probability; the fill value means "no label"
values  relative logits, as an encoding of labels/encodings.py stores them; then codes, if labels have any
tail    tail mass, as the same encoding stores it
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from teacher_cache.errors import InputError
from teacher_cache.labels.encodings import ENCODINGS, Values

MAX_CLASSES_U16 = 65_535


class LabelArrays(NamedTuple):
    """Labels as stored: idx (..., K), values (..., K + R) with R codes, tail (...)."""

    idx: npt.NDArray[Any]
    values: npt.NDArray[Any]
    tail: npt.NDArray[Any]


class BasisArrays(NamedTuple):
    """Basis of components as stored (labels/components.py).

    Attributes:
        basis: float16 (M + 1, C): the mean m, then the directions.
        basis_step: float32 (M + 1,): 1, then step_j; 0 for directions without a code.
        basis_error: float32 (M + 1,): noise, then error_j.
    """

    basis: npt.NDArray[np.float16]
    basis_step: npt.NDArray[np.float32]
    basis_error: npt.NDArray[np.float32]


SharedArrays: TypeAlias = LabelArrays | BasisArrays
"""Arrays that all labels of an archive share: its class affinity, or its basis."""


def idx_dtype(num_classes: int) -> np.dtype:
    """Return the type of idx: u16 unless its fill value 65535 is a class id."""
    return np.dtype("<u2" if num_classes <= MAX_CLASSES_U16 else "<u4")


def idx_fill(num_classes: int) -> int:
    """Return the value of idx that means "no label": the largest of its type."""
    return int(np.iinfo(idx_dtype(num_classes)).max)


def empty_labels(
    shape: tuple[int, ...], k: int, num_classes: int, values: Values, num_codes: int = 0
) -> LabelArrays:
    """Return uninitialised arrays to write labels into: see LabelArrays, `shape` in place of the dots."""
    dtype = ENCODINGS[values].dtype
    return LabelArrays(
        np.empty((*shape, k), idx_dtype(num_classes)),
        np.empty((*shape, k + num_codes), dtype),
        np.empty(shape, dtype),
    )


def check_topk(k: int, num_classes: int) -> None:
    """Refuse a k that the teacher cannot fill.

    Raises:
        InputError: k is below 1 or above the number of classes.
    """
    if not 1 <= k <= num_classes:
        raise InputError(
            f"--topk {k} with {num_classes} classes",
            "A label holds between one class and all of them.",
            f"choose --topk between 1 and {num_classes}",
        )
