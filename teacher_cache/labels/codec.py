"""Convert labels, which are tensors, to and from the stored NumPy arrays; files are handled elsewhere."""

from __future__ import annotations

import numpy as np
import torch

from teacher_cache.labels.arrays import LabelArrays, idx_dtype
from teacher_cache.labels.encodings import ENCODINGS, Values
from teacher_cache.labels.topk import Labels


def encode(labels: Labels, num_classes: int, values: Values) -> LabelArrays:
    """Return labels as stored: (B, K), (B, K), (B,), with relative logits and tails in encoding `values`."""
    idx_BK = labels.class_ids_BK.cpu().numpy().astype(idx_dtype(num_classes))
    relative_BK, tail_B = labels.relative_logits_BK.cpu().numpy(), labels.tail_B.cpu().numpy()
    return LabelArrays(idx_BK, *ENCODINGS[values].encode(relative_BK, tail_B))


def decode(arrays: LabelArrays, num_classes: int, values: Values) -> Labels:
    """Return labels from stored arrays (B, K), (B, K), (B,) in encoding `values`."""
    relative_BK, tail_B = ENCODINGS[values].decode(arrays.values, arrays.tail, num_classes)
    class_ids_BK = torch.from_numpy(arrays.idx.astype(np.int32))
    return Labels(class_ids_BK, torch.from_numpy(relative_BK), torch.from_numpy(tail_B))
