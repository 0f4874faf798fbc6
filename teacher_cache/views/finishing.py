"""Parameters for erasing and mixing views on the model's device; this module does not import torch."""

from __future__ import annotations

import functools
from statistics import NormalDist
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from teacher_cache.views.recipe_ops import RandomErasing

if TYPE_CHECKING:
    import torch

Leaf = TypeVar("Leaf", "npt.NDArray", "torch.Tensor")
"""NumPy arrays in a process that renders, tensors in one that trains or labels."""


class Finishing(NamedTuple, Generic[Leaf]):
    """Parameters that erase R rendered views and mix the first B; the other views are only partners.

    Boxes are int32 (top, left, height, width); height 0 means no box.

    Attributes:
        erase_R4: Erased box of each rendered view.
        erased_C256: Table of the pixel value for each byte of an erased box, by channel, float32.
        partner_B: Index among the R of the view that each view is mixed with, int64.
        blend_B: Weight of a view's own pixels outside the box; the partner's have the rest; float32.
        box_B4: Box that is copied from the partner's picture.
        weight_B: Share of a view's own image in the whole view: the weight of its true label, float32.
    """

    erase_R4: Leaf
    erased_C256: Leaf
    partner_B: Leaf
    blend_B: Leaf
    box_B4: Leaf
    weight_B: Leaf


@functools.cache
def erased_values(op: RandomErasing | None) -> npt.NDArray[np.float32]:
    """Return the pixel value for each byte of an erased box, which may leave 0 to 255: float32 (3, 256).

    A byte stands for the standard normal quantile at (byte + 1/2) / 256, so noise needs no extra memory:
    rendering fills the box with random bytes. With 256 equally likely values the standard deviation is 0.995.
    """
    if op is None:
        return np.zeros((3, 256), np.float32)
    normal = NormalDist()
    quantiles = [round(normal.inv_cdf((byte + 0.5) / 256), 9) for byte in range(256)]
    scales = op.std if op.mode == "pixel" else (0.0, 0.0, 0.0)
    values = [
        [255 * (mean + scale * quantile) for quantile in quantiles]
        for mean, scale in zip(op.mean, scales, strict=True)
    ]
    return np.array(values, np.float32)
