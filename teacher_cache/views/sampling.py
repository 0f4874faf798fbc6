"""Draw the parameters of one view from (recipe, key, view, image size), without pixels or a global RNG."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from teacher_cache.exact import portable
from teacher_cache.exact.streams import Purpose, RandomStream, sample_id, view_seed
from teacher_cache.views.recipe import Recipe
from teacher_cache.views.recipe_ops import (
    ColorJitter,
    PixelOps,
    RandAugment,
    RandomErasing,
    RandomResizedCrop,
    ResizeCenterCrop,
    ResizeRandomCrop,
    ThreeAugment,
)

_ATTEMPTS = 10
"""Attempts to draw a box that fits, as in torchvision and timm; else crop the centre, or erase nothing."""
_LARGEST_LEVEL = 10.0


class Box(NamedTuple):
    """Rectangle of pixels."""

    top: int
    left: int
    height: int
    width: int


class PixelOp(NamedTuple):
    """Op on uint8 pixels: its name in views/ops.py, and its amount, 0 for ops without one."""

    name: str
    amount: float


class ViewParams(NamedTuple):
    """Parameters that turn an image's pixels into a view, with all lengths in pixels.

    (seed, sample_id) is the key of the view's random streams, from which all other parameters were drawn. The
    source box (top, left, height, width) is cut out and resized to resize_height x resize_width. The square
    window of side img_size at (window_top, window_left) is kept, reflected where it reaches over the edge,
    and flipped if `flip`. Then `ops` are applied one after the other, and the box `erase`, if any, is erased.
    Mixing needs two views: see views/mixing.py.
    """

    seed: int
    sample_id: int
    top: int
    left: int
    height: int
    width: int
    resize_height: int
    resize_width: int
    window_top: int
    window_left: int
    flip: bool
    ops: tuple[PixelOp, ...] = ()
    erase: Box | None = None


def sample_view(recipe: Recipe, key: str, view: int, height: int, width: int) -> ViewParams:
    """Return the parameters of view `view` of the sample `key`, whose image is height x width pixels."""
    stream_key = (view_seed(recipe.sha256, key, view), sample_id(key))
    flip = False
    if recipe.flip_probability > 0:
        flip = RandomStream(stream_key, Purpose.FLIP).uniform() < recipe.flip_probability
    # Each op draws from a stream of its own position: a change in how often one op draws moves no other op,
    # and views of published archives stay the same when an op is added to the program.
    return ViewParams(
        *stream_key,
        *_crop(recipe, stream_key, height, width),
        flip,
        ops=tuple(
            op
            for position, pixel_ops in enumerate(recipe.pixel_ops)
            for op in SAMPLERS[type(pixel_ops)].draw(
                pixel_ops, RandomStream(stream_key, Purpose.OPS, (position, 0))
            )
        ),
        erase=_sample_erasing(recipe.erasing, stream_key, recipe.img_size) if recipe.erasing else None,
    )


def erasing_noise(params: ViewParams) -> RandomStream:
    """Return the stream of bytes that fill a view's erased box; another ERASE stream chose the box."""
    return RandomStream((params.seed, params.sample_id), Purpose.ERASE, (1, 0))


def _crop(
    recipe: Recipe, stream_key: tuple[int, int], height: int, width: int
) -> tuple[int, int, int, int, int, int, int, int]:
    """Return the source box, the resized height and width, and the window's top and left."""
    crop, size = recipe.crop, recipe.img_size
    if isinstance(crop, RandomResizedCrop):
        box = _random_box(crop, RandomStream(stream_key, Purpose.CROP), height, width)
        return *box, size, size, 0, 0
    if isinstance(crop, ResizeCenterCrop):
        resized = _resized(height, width, math.floor(size / crop.crop_pct))
        window = (round((resized[0] - size) / 2), round((resized[1] - size) / 2))
        return 0, 0, height, width, *resized, *window
    return (
        0,
        0,
        height,
        width,
        *_random_window(crop, RandomStream(stream_key, Purpose.CROP), size, height, width),
    )


def _random_window(
    crop: ResizeRandomCrop, stream: RandomStream, size: int, height: int, width: int
) -> tuple[int, int, int, int]:
    resized = _resized(height, width, size)
    margin = min(crop.padding_px, size - 1)  # reflection cannot add more pixels
    window_top, window_left = (stream.integer(side + 2 * margin - size + 1) - margin for side in resized)
    return *resized, window_top, window_left


def _resized(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return (height, width) with the short side at `short_side`, as torchvision's Resize rounds it."""
    if height <= width:
        return short_side, int(short_side * width / height)
    return int(short_side * height / width), short_side


def _random_box(crop: RandomResizedCrop, stream: RandomStream, height: int, width: int) -> Box:
    """Draw a box as timm's RandomResizedCropAndInterpolation.get_params does."""
    log_ratio = _log_bounds(crop.ratio)
    for _ in range(_ATTEMPTS):
        area_px = stream.uniform(*crop.scale) * height * width
        ratio = portable.exp(stream.uniform(*log_ratio))
        box_width, box_height = (
            max(1, round(math.sqrt(area_px * ratio))),
            max(1, round(math.sqrt(area_px / ratio))),
        )
        if box_width <= width and box_height <= height:
            top, left = stream.integer(height - box_height + 1), stream.integer(width - box_width + 1)
            return Box(top, left, box_height, box_width)
    ratio = min(max(width / height, crop.ratio[0]), crop.ratio[1])
    box_width = min(width, max(1, round(height * ratio)))
    box_height = min(height, max(1, round(width / ratio)))
    return Box((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


def _sample_erasing(op: RandomErasing, stream_key: tuple[int, int], size: int) -> Box | None:
    """Return a random box to erase, or None, drawn as in timm's _erase (timm/data/random_erasing.py)."""
    stream = RandomStream(stream_key, Purpose.ERASE)
    if stream.uniform() >= op.probability:
        return None
    for _ in range(_ATTEMPTS):
        area_px = stream.uniform(*op.area) * size * size
        ratio = portable.exp(stream.uniform(*_log_bounds(op.ratio)))
        height, width = round(math.sqrt(area_px * ratio)), round(math.sqrt(area_px / ratio))
        if height < size and width < size:
            return Box(stream.integer(size - height + 1), stream.integer(size - width + 1), height, width)
    return None


@functools.cache
def _log_bounds(bounds: tuple[float, float]) -> tuple[float, float]:
    return portable.exact_log(bounds[0]), portable.exact_log(bounds[1])


def ops_of(recipe: Recipe) -> frozenset[str]:
    """Return the names of all ops on pixels that `sample_view` can choose for a view of the recipe."""
    return frozenset(name for op in recipe.pixel_ops for name in SAMPLERS[type(op)].emits)


class _Amount(NamedTuple):
    """Amount of an op as a function of level / _LARGEST_LEVEL, which is negated half the time if `signed`."""

    of_share: Callable[[float], float]
    signed: bool


_RAND_AUGMENT_OPS: tuple[tuple[str, _Amount | None], ...] = (
    ("auto_contrast", None),
    ("equalize", None),
    ("invert", None),
    ("rotate", _Amount(lambda share: 30 * share, signed=True)),
    ("posterize", _Amount(lambda share: 4.0 - int(4 * share), signed=False)),
    ("solarize", _Amount(lambda share: 256.0 - int(256 * share), signed=False)),
    ("solarize_add", _Amount(lambda share: float(int(110 * share)), signed=False)),
    ("color", _Amount(lambda share: max(0.1, 1 + 0.9 * share), signed=True)),
    ("contrast", _Amount(lambda share: max(0.1, 1 + 0.9 * share), signed=True)),
    ("brightness", _Amount(lambda share: max(0.1, 1 + 0.9 * share), signed=True)),
    ("sharpness", _Amount(lambda share: max(0.1, 1 + 0.9 * share), signed=True)),
    ("shear_x", _Amount(lambda share: 0.3 * share, signed=True)),
    ("shear_y", _Amount(lambda share: 0.3 * share, signed=True)),
    ("translate_x", _Amount(lambda share: 0.45 * share, signed=True)),
    ("translate_y", _Amount(lambda share: 0.45 * share, signed=True)),
)
"""Ops of timm's _RAND_INCREASING_TRANSFORMS with its LEVEL_TO_ARG (timm/data/auto_augment.py): degrees, bits
kept, threshold, addition, factors, slopes, and shares of the side."""


def _sample_rand_augment(op: RandAugment, stream: RandomStream) -> list[PixelOp]:
    chosen = []
    for _ in range(op.num_ops):
        name, amount = _RAND_AUGMENT_OPS[stream.integer(len(_RAND_AUGMENT_OPS))]
        if stream.uniform() >= op.probability:
            continue
        if amount is None:
            chosen.append(PixelOp(name, 0.0))
            continue
        level = op.magnitude + op.magnitude_std * stream.normal()
        share = min(max(level, 0.0), _LARGEST_LEVEL) / _LARGEST_LEVEL
        if amount.signed and stream.uniform() > 0.5:
            share = -share
        chosen.append(PixelOp(name, amount.of_share(share)))
    return chosen


def _sample_three_augment(op: ThreeAugment, stream: RandomStream) -> list[PixelOp]:
    choice = stream.integer(3)
    if choice == 0:
        return [PixelOp("color", 0.0)]
    if choice == 1:
        return [PixelOp("solarize", float(op.solarize_threshold))]
    return [PixelOp("gaussian_blur", stream.uniform(*op.blur_radius))]


def _sample_color_jitter(op: ColorJitter, stream: RandomStream) -> list[PixelOp]:
    """Draw three factors, then their order by the Fisher-Yates shuffle."""
    jitters = (("brightness", op.brightness), ("contrast", op.contrast), ("color", op.saturation))
    ops = [PixelOp(name, stream.uniform(1 - width, 1 + width)) for name, width in jitters]
    for last in range(len(ops) - 1, 0, -1):
        other = stream.integer(last + 1)
        ops[last], ops[other] = ops[other], ops[last]
    return ops


class Sampler(NamedTuple):
    """Sampler of a recipe's pixel op: names in views/ops.py that it can choose, and a function to draw."""

    emits: Sequence[str]
    draw: Callable[[Any, RandomStream], list[PixelOp]]


SAMPLERS: Mapping[type[PixelOps], Sampler] = {
    RandAugment: Sampler([name for name, _ in _RAND_AUGMENT_OPS], _sample_rand_augment),
    ThreeAugment: Sampler(["color", "solarize", "gaussian_blur"], _sample_three_augment),
    ColorJitter: Sampler(["brightness", "contrast", "color"], _sample_color_jitter),
}
"""Samplers by the op's class in recipe_ops.py."""
