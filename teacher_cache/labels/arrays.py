"""Labels as they are stored: the three arrays, their types and steps (docs/archive-format.md).

idx   u16 (u32 above 65,535 classes)   class ids by falling probability; the fill value means "no label"
q8, eight bits a value:
    dq    u8    q = cumsum(dq) along the last axis;  logit_j - logit_0 = -q_j / 16
    tail  u8    probability outside the top k = min(exp(-tail / 16), 1 - k / classes); 255 means none
float32, exact, for research:
    rel   f4    logit_j - logit_0
    tail  f4    probability outside the top k
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from teacher_cache.errors import InputError

Values = Literal["q8", "float32"]

VALUE_STEP = 1 / 16
"""Nats per step of dq and tail. Finer buys nothing, coarser costs fidelity (docs/labels.md)."""

NO_TAIL = 255
MAX_CLASSES_U16 = 65_535


class LabelArrays(NamedTuple):
    """Labels as stored: idx and values (..., K), tail (...); values are dq or rel, as their type tells."""

    idx: npt.NDArray[Any]
    values: npt.NDArray[Any]
    tail: npt.NDArray[Any]


def idx_dtype(num_classes: int) -> np.dtype:
    """Return the type of idx: u16 as long as the fill value 65535 is no class id."""
    return np.dtype("<u2" if num_classes <= MAX_CLASSES_U16 else "<u4")


def idx_fill(num_classes: int) -> int:
    """Return the value of idx that means "no label here": the largest of its type."""
    return int(np.iinfo(idx_dtype(num_classes)).max)


def empty_labels(shape: tuple[int, ...], k: int, num_classes: int, values: Values) -> LabelArrays:
    """Return arrays of a shape (..., ) to write labels into: idx and values (..., k), tail (...)."""
    real = np.dtype("u1" if values == "q8" else "<f4")
    return LabelArrays(
        np.empty((*shape, k), idx_dtype(num_classes)), np.empty((*shape, k), real), np.empty(shape, real)
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
