"""Labels <-> the arrays that are stored (arrays.py). No files here."""

from __future__ import annotations

import numpy as np
import torch

from teacher_cache.labels.arrays import NO_TAIL, VALUE_STEP, LabelArrays, Values, idx_dtype
from teacher_cache.labels.topk import Labels


def encode(labels: Labels, num_classes: int, values: Values = "q8") -> LabelArrays:
    """Return labels as they are stored.

    Of q8 each gap between neighbours in rank is rounded against what the earlier ranks decode to, so that
    errors do not add up. A gap above 15.9 nats, a probability ratio under 1.2e-7, is cut to 15.9.
    """
    idx_BK = labels.class_ids_BK.cpu().numpy().astype(idx_dtype(num_classes))
    relative_BK, tail_B = labels.relative_logits_BK.cpu().numpy(), labels.tail_B.cpu().numpy()
    if values == "float32":
        return LabelArrays(idx_BK, relative_BK.astype("<f4"), tail_B.astype("<f4"))
    target_BK = np.rint(relative_BK.astype(np.float64) / -VALUE_STEP)
    dq_BK = np.empty(target_BK.shape, np.uint8)
    reached_B = np.zeros(target_BK.shape[0])
    for rank in range(target_BK.shape[1]):
        gap_B = np.clip(target_BK[:, rank] - reached_B, 0, 255)
        dq_BK[:, rank] = gap_B
        reached_B += gap_B
    with np.errstate(divide="ignore"):
        steps_B = np.rint(-np.log(tail_B.astype(np.float64)) / VALUE_STEP)
    return LabelArrays(idx_BK, dq_BK, np.clip(steps_B, 0, NO_TAIL).astype(np.uint8))


def decode(arrays: LabelArrays, num_classes: int) -> Labels:
    """Turn stored arrays (B, K), (B, K), (B,) back into labels.

    A tail is never more than 1 - K / C, that of a flat distribution, which eight bits round up to 1.
    """
    class_ids_BK = torch.from_numpy(arrays.idx.astype(np.int32))
    if arrays.values.dtype.kind == "f":
        relative_BK, tail_B = (part.astype(np.float32) for part in arrays[1:])
        return Labels(class_ids_BK, torch.from_numpy(relative_BK), torch.from_numpy(tail_B))
    q_BK = np.cumsum(arrays.values, axis=1, dtype=np.int32)
    tail_B = np.minimum(_TAILS[arrays.tail], np.float32(1 - arrays.idx.shape[1] / num_classes))
    return Labels(
        class_ids_BK,
        torch.from_numpy(q_BK.astype(np.float32) * np.float32(-VALUE_STEP)),
        torch.from_numpy(tail_B),
    )


_TAILS = np.append(np.exp(np.arange(NO_TAIL) * -VALUE_STEP), 0).astype(np.float32)
"""What each value of the stored tail means."""
