"""Parameters -> uint8 pixels. No randomness here.

The resize is torch's uint8 antialiased bicubic: fixed-point, and the same bits for every CPU capability
level, memory layout and thread count (Pillow's changed between releases, torch's bilinear does not agree
with itself across levels).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from teacher_cache import images
from teacher_cache.views.recipe import Recipe
from teacher_cache.views.sampling import ViewParams, sample_view


def render(pixels_HWC: npt.NDArray[np.uint8], params: ViewParams, out_CHW: torch.Tensor) -> None:
    """Render one view of an image's pixels into `out_CHW`, uint8 (3, img_size, img_size)."""
    box_HWC = pixels_HWC[params.top : params.top + params.height, params.left : params.left + params.width]
    source_1CHW = torch.from_numpy(box_HWC).permute(2, 0, 1)[None]
    resized_CHW = torch.nn.functional.interpolate(
        source_1CHW,
        size=(params.resize_height, params.resize_width),
        mode="bicubic",
        antialias=True,
        align_corners=False,
    )[0]
    size = out_CHW.shape[-1]
    view_CHW = resized_CHW[
        :, params.window_top : params.window_top + size, params.window_left : params.window_left + size
    ]
    out_CHW.copy_(view_CHW.flip(2) if params.flip else view_CHW)


def render_views(
    image_bytes: bytes | memoryview, recipe: Recipe, key: str, views: Sequence[int], out_VCHW: torch.Tensor
) -> None:
    """Decode an image once and render views of it into `out_VCHW`, uint8 (V, 3, img_size, img_size).

    This is the replay contract: the pixels are a function of the arguments alone, bit for bit.

    Raises:
        ImageError: The image cannot be decoded, or is so long and thin that its short side cannot be resized.
    """
    pixels_HWC = images.decode(image_bytes, key)
    height, width = pixels_HWC.shape[:2]
    for view, out_CHW in zip(views, out_VCHW, strict=True):
        params = sample_view(recipe, key, view, height, width)
        images.check_size(key, params.resize_height, params.resize_width)
        render(pixels_HWC, params, out_CHW)
