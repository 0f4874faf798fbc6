"""Device half of a view: rendered uint8 pixels -> erased and mixed pixels -> a model's normalised input.

Teacher and student share these batched functions. Every step is one float32 IEEE operation per pixel, so a
view's pixels depend neither on the batch nor on the CPU. The order is timm's: erasing, then mixing;
normalising comes last, because it commutes with both, so that models with other means see the same picture.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import torch

from teacher_cache.views.recipe_ops import RandomErasing


class Finishing(NamedTuple):
    """Erasing and mixing of R rendered views, of which the first B are wanted.

    Boxes are int32 (top, left, height, width); height 0 means no box.

    Attributes:
        erase_R4: Erased box of each rendered view.
        erased_C256: Pixel value that each byte of an erased box stands for, float32.
        partner_B: Index among the R of the view that each view is mixed with, int64.
        blend_B: Share of the own picture in every pixel outside the box, float32.
        box_B4: Box that is copied from the partner's picture.
        weight_B: Share of the own picture in the whole view, and so of its true label, float32.
    """

    erase_R4: torch.Tensor
    erased_C256: torch.Tensor
    partner_B: torch.Tensor
    blend_B: torch.Tensor
    box_B4: torch.Tensor
    weight_B: torch.Tensor


@functools.cache
def erased_values(op: RandomErasing | None) -> torch.Tensor:
    """Return the pixel value, 0 to 255 and beyond, that a byte of an erased box stands for: float32 (3, 256).

    A byte stands for the standard normal quantile at (byte + 1/2) / 256, so noise needs no extra memory:
    rendering fills the box with random bytes. With 256 equally likely values the standard deviation is 0.995.
    """
    if op is None:
        return torch.zeros(3, 256, dtype=torch.float32)
    normal = NormalDist()
    quantiles = [round(normal.inv_cdf((byte + 0.5) / 256), 9) for byte in range(256)]
    scales = op.std if op.mode == "pixel" else (0.0, 0.0, 0.0)
    return torch.tensor(
        [
            [255 * (mean + scale * quantile) for quantile in quantiles]
            for mean, scale in zip(op.mean, scales, strict=True)
        ],
        dtype=torch.float32,
    )


def finish(images_RCHW: torch.Tensor, finishing: Finishing | None) -> torch.Tensor:
    """Erase and mix rendered views.

    Args:
        images_RCHW: Rendered views, uint8 RGB on any device.
        finishing: Erasing and mixing of the views, on the CPU; None for neither.

    Returns:
        Views, float32 (B, 3, H, W) on the same device, with values from 0 to 255, and beyond in noise.
    """
    images_RCHW = images_RCHW.contiguous()
    pixels_RCHW = images_RCHW.float()
    if finishing is None:
        return pixels_RCHW
    device = images_RCHW.device
    erased_E = finishing.erase_R4[:, 2].nonzero()[:, 0]
    if len(erased_E):
        boxes_E4 = finishing.erase_R4[erased_E].to(device, non_blocking=True)
        values_C256 = finishing.erased_C256.to(device, non_blocking=True)
        erased_E = erased_E.to(device, non_blocking=True)
        noise_ECHW = torch.stack(
            [
                values[channel_EHW.int()]
                for values, channel_EHW in zip(values_C256, images_RCHW[erased_E].unbind(1), strict=True)
            ],
            dim=1,
        )
        inside_E1HW = _inside(boxes_E4, images_RCHW.shape[-1])
        pixels_RCHW[erased_E] = torch.where(inside_E1HW, noise_ECHW, pixels_RCHW[erased_E])
    own_BCHW = pixels_RCHW[: len(finishing.partner_B)]
    mixed = finishing.weight_B.lt(1).any()
    if not mixed:
        return own_BCHW
    partner_BCHW = pixels_RCHW[finishing.partner_B.to(device, non_blocking=True)]
    blend_B111 = finishing.blend_B.to(device, non_blocking=True).view(-1, 1, 1, 1)
    inside_B1HW = _inside(finishing.box_B4.to(device, non_blocking=True), images_RCHW.shape[-1])
    blended_BCHW = own_BCHW * blend_B111 + partner_BCHW * (1 - blend_B111)
    return torch.where(inside_B1HW, partner_BCHW, blended_BCHW)


def _inside(boxes_B4: torch.Tensor, size: int) -> torch.Tensor:
    """Return a mask of the pixels in each view's box: bool (B, 1, size, size)."""
    top, left, height, width = boxes_B4[:, :, None, None].unbind(1)
    places = torch.arange(size, device=boxes_B4.device)
    rows_BH1, columns_B1W = places[:, None], places[None, :]
    inside_BHW = (
        (rows_BH1 >= top) & (rows_BH1 < top + height) & (columns_B1W >= left) & (columns_B1W < left + width)
    )
    return inside_BHW[:, None]


def normalize(pixels_BCHW: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Return (pixels / 255 - mean) / std.

    Args:
        pixels_BCHW: RGB pixels from 0 to 255, uint8 or float32, on any device.
        mean: Mean per channel, of pixels scaled to [0, 1].
        std: Standard deviation per channel, of pixels scaled to [0, 1].

    Returns:
        Normalised pixels, float32 (B, 3, H, W) on the same device.
    """
    scale_C11, shift_C11 = _scale_and_shift(tuple(mean), tuple(std), pixels_BCHW.device)
    return (pixels_BCHW.contiguous().float() * scale_C11).add_(shift_C11)


@functools.cache  # making a new tensor on a device waits for the device
def _scale_and_shift(
    mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    scales = [1 / (255 * s) for s in std]
    shifts = [-m / s for m, s in zip(mean, std, strict=True)]
    pair = torch.tensor([scales, shifts], dtype=torch.float32, device=device)[:, :, None, None]
    return pair[0], pair[1]
