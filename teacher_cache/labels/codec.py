"""Convert labels to and from the stored arrays; files are handled elsewhere.

Labels are tensors where a teacher or a student runs. Elsewhere they are NumPy arrays, so that torch, which
takes seconds to import, is not needed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from teacher_cache.labels.arrays import LabelArrays, idx_dtype
from teacher_cache.labels.encodings import ENCODINGS, Values
from teacher_cache.labels.topk import Labels


class LabelRows(NamedTuple):
    """Labels of B views as NumPy arrays; the fields are those of Labels."""

    class_ids_BK: npt.NDArray[np.int32]
    relative_logits_BK: npt.NDArray[np.float32]
    tail_B: npt.NDArray[np.float32]

    def probabilities(self) -> npt.NDArray[np.float32]:
        """Return the probabilities of the kept classes, float32 (B, K)."""
        mass_BK = np.exp(self.relative_logits_BK.astype(np.float64))
        shares_BK = mass_BK / mass_BK.sum(1, keepdims=True)
        return (shares_BK * (1 - self.tail_B.astype(np.float64))[:, None]).astype(np.float32)


def encode(labels: Labels, num_classes: int, values: Values) -> LabelArrays:
    """Return labels as stored: idx (B, K), values (B, K) and tail (B,), the last two in encoding `values`."""
    idx_BK = labels.class_ids_BK.cpu().numpy().astype(idx_dtype(num_classes))
    relative_BK, tail_B = labels.relative_logits_BK.cpu().numpy(), labels.tail_B.cpu().numpy()
    return LabelArrays(idx_BK, *ENCODINGS[values].encode(relative_BK, tail_B))


def decode_rows(arrays: LabelArrays, num_classes: int, values: Values) -> LabelRows:
    """Return labels from stored arrays (B, K), (B, K), (B,) in encoding `values`, as NumPy arrays."""
    relative_BK, tail_B = ENCODINGS[values].decode(arrays.values, arrays.tail, num_classes)
    return LabelRows(arrays.idx.astype(np.int32), relative_BK, tail_B)


def decode(arrays: LabelArrays, num_classes: int, values: Values) -> Labels:
    """Return labels from stored arrays (B, K), (B, K), (B,) in encoding `values`."""
    import torch

    return Labels(*map(torch.from_numpy, decode_rows(arrays, num_classes, values)))
