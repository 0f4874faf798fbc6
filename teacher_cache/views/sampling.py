"""(recipe, key, view, image size) -> the parameters of one view. No pixels here, no state, no global RNG."""

from __future__ import annotations

import dataclasses
import functools
import math
from decimal import Context, Decimal

from teacher_cache.keys import Purpose, Stream, sample_id, view_seed
from teacher_cache.views.recipe import RandomResizedCrop, Recipe, ResizeCenterCrop

_LOG_CONTEXT = Context(prec=40)
_CROP_ATTEMPTS = 10
"""torchvision and timm give up on a random box after ten, and take a central one."""


@dataclasses.dataclass(frozen=True)
class ViewParams:
    """Everything that makes a view out of an image's pixels. All lengths in pixels.

    The source box is cut out, resized to resize_height x resize_width, and the square window of side
    img_size at (window_top, window_left) of that is the view, flipped at last if `flip`.
    """

    seed: int
    top: int
    left: int
    height: int
    width: int
    resize_height: int
    resize_width: int
    window_top: int
    window_left: int
    flip: bool


def sample_view(recipe: Recipe, key: str, view: int, height: int, width: int) -> ViewParams:
    """Return the parameters of view `view` of the sample `key`, whose image is height x width pixels."""
    seed = view_seed(recipe.sha256, key, view)
    stream_key = (seed, sample_id(key))
    flip = False
    if recipe.flip_probability > 0:
        flip = Stream(stream_key, Purpose.FLIP).uniform() < recipe.flip_probability
    crop = recipe.crop
    size = recipe.img_size
    if isinstance(crop, ResizeCenterCrop):
        resize_height, resize_width = _resized(height, width, math.floor(size / crop.crop_pct))
        window_top, window_left = round((resize_height - size) / 2), round((resize_width - size) / 2)
        return ViewParams(
            seed, 0, 0, height, width, resize_height, resize_width, window_top, window_left, flip
        )
    box = _random_box(crop, Stream(stream_key, Purpose.CROP), height, width)
    return ViewParams(seed, *box, size, size, 0, 0, flip)


def _resized(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return (height, width) with the short side at `short_side`, as torchvision's Resize rounds it."""
    if height <= width:
        return short_side, int(short_side * width / height)
    return int(short_side * height / width), short_side


def _random_box(
    crop: RandomResizedCrop, stream: Stream, height: int, width: int
) -> tuple[int, int, int, int]:
    """Draw (top, left, height, width) as timm's RandomResizedCropAndInterpolation.get_params does."""
    log_low, log_high = _exact_log(crop.ratio[0]), _exact_log(crop.ratio[1])
    for _ in range(_CROP_ATTEMPTS):
        area_px = stream.uniform(*crop.scale) * height * width
        ratio = _portable_exp(stream.uniform(log_low, log_high))
        box_width, box_height = (
            max(1, round(math.sqrt(area_px * ratio))),
            max(1, round(math.sqrt(area_px / ratio))),
        )
        if box_width <= width and box_height <= height:
            top, left = stream.integer(height - box_height + 1), stream.integer(width - box_width + 1)
            return top, left, box_height, box_width
    ratio = min(max(width / height, crop.ratio[0]), crop.ratio[1])
    box_width = min(width, max(1, round(height * ratio)))
    box_height = min(height, max(1, round(width / ratio)))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


@functools.cache
def _exact_log(value: float) -> float:
    """Return ln(value) correctly rounded: decimal's is, on every platform; libm's is not promised to be."""
    return float(Decimal(value).ln(_LOG_CONTEXT))


def _portable_exp(x: float) -> float:
    """Return e^x for |x| < 2.8 to 1e-14, by IEEE sums, products and quotients: the same bits anywhere.

    libm's exp may differ by a unit in the last place between CPUs, and then a crop by a pixel.
    """
    halved = x / 8
    total = 1.0
    for order in range(12, 0, -1):
        total = 1.0 + halved * total / order
    total *= total
    total *= total
    return total * total
