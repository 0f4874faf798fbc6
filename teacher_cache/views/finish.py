"""Steps of a view on the model's device: rendered uint8 pixels -> erased and mixed -> normalised input.

Teacher and student share these batched functions. Every step is one float32 IEEE operation per pixel, so a
view's pixels depend neither on the batch nor on the CPU. The order is timm's: erasing, then mixing;
normalising comes last, because it commutes with both, so that models with other means see the same picture.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch

from teacher_cache.views.finishing import Finishing


def finish(images_RCHW: torch.Tensor, finishing: Finishing[torch.Tensor] | None) -> torch.Tensor:
    """Erase and mix rendered views.

    Args:
        images_RCHW: Rendered views, uint8 RGB on any device.
        finishing: Erasing and mixing of the views, as tensors on the CPU; None for neither.

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
