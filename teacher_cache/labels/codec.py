"""Convert labels to and from the stored arrays; files are handled elsewhere.

Labels are tensors where a teacher or a student runs. Elsewhere they are NumPy arrays, so that torch, which
takes seconds to import, is not needed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from teacher_cache.labels.arrays import BasisArrays, LabelArrays, idx_dtype
from teacher_cache.labels.encodings import AFFINITY_VALUES, ENCODINGS, Values
from teacher_cache.labels.topk import Basis, CodedLabels, Labels, OneLabels


class LabelRows(NamedTuple):
    """Labels of B views as NumPy arrays; the fields are those of Labels."""

    class_ids_BK: npt.NDArray[np.int32]
    relative_logits_BK: npt.NDArray[np.float32]
    tail_B: npt.NDArray[np.float32]
    codes_BR: npt.NDArray[np.int8] | None = None

    def probabilities(self) -> npt.NDArray[np.float32]:
        """Return the probabilities of the kept classes, float32 (B, K)."""
        mass_BK = np.exp(self.relative_logits_BK.astype(np.float64))
        shares_BK = mass_BK / mass_BK.sum(1, keepdims=True)
        return (shares_BK * (1 - self.tail_B.astype(np.float64))[:, None]).astype(np.float32)


def encode(labels: OneLabels, num_classes: int, values: Values) -> LabelArrays:
    """Return labels as stored, B of them: logits and tails in encoding `values`, codes in `zigzag`."""
    idx_BK = labels.class_ids_BK.cpu().numpy().astype(idx_dtype(num_classes))
    relative_BK, tail_B = labels.relative_logits_BK.cpu().numpy(), labels.tail_B.cpu().numpy()
    values_BK, stored_B = ENCODINGS[values].encode(relative_BK, tail_B)
    if isinstance(labels, CodedLabels):
        values_BK = np.concatenate([values_BK, zigzag(labels.codes_BR.cpu().numpy())], axis=1)
    return LabelArrays(idx_BK, values_BK, stored_B)


def zigzag(codes: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Return 0, -1, 1, -2, ... as 0, 1, 2, 3, ...: codes near 0 leave the high bits 0, for the compressor."""
    wide = codes.astype(np.int16)
    return ((wide << 1) ^ (wide >> 15)).astype(np.uint8)


def _codes(stored: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """Return the codes that `zigzag` stored."""
    return ((stored >> 1) ^ -(stored & 1)).astype(np.int8)


def decode_rows(arrays: LabelArrays, num_classes: int, values: Values) -> LabelRows:
    """Return labels from stored arrays of B views in encoding `values`, as NumPy arrays."""
    k = arrays.idx.shape[1]
    relative_BK, tail_B = ENCODINGS[values].decode(arrays.values[:, :k], arrays.tail, num_classes)
    codes_BR = _codes(arrays.values[:, k:]) if arrays.values.shape[1] > k else None
    return LabelRows(arrays.idx.astype(np.int32), relative_BK, tail_B, codes_BR)


def decode(arrays: LabelArrays, num_classes: int, values: Values) -> OneLabels:
    """Return labels from stored arrays of B views in encoding `values`."""
    import torch

    rows = decode_rows(arrays, num_classes, values)
    tensors = [torch.from_numpy(array) for array in rows if array is not None]
    return Labels(*tensors) if rows.codes_BR is None else CodedLabels(*tensors)


def decode_affinity(arrays: LabelArrays, num_classes: int) -> Labels:
    """Return a class affinity from its stored arrays, a label for each row."""
    import torch

    class_ids, relative, tail, _ = decode_rows(arrays, num_classes, AFFINITY_VALUES)
    return Labels(*map(torch.from_numpy, (class_ids, relative, tail)))


def decode_basis(arrays: BasisArrays, num_codes: int) -> Basis:
    """Return a basis from its stored arrays, as tensors on the CPU."""
    import torch

    vectors, steps, errors = (torch.from_numpy(array.astype(np.float32)) for array in arrays)
    return Basis(vectors[0], vectors[1:], steps[1 : num_codes + 1], errors[1:], errors[0])
