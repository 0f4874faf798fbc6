"""Ops of a recipe, as data: one frozen dataclass each, validated when it is made.

A field's default is the value in the source named beside it; JSON and YAML must give the default's type
(number, whole number, name, or tuple of numbers). An op's name in them is its class name in snake_case.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta

from teacher_cache.errors import RecipeError, nearest
from teacher_cache.program.bounds import Colour, Span, broken_rule, facts_of

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean per channel, of pixels scaled to [0, 1]: timm's IMAGENET_DEFAULT_MEAN (timm/data/constants.py)."""
IMAGENET_STD = (0.229, 0.224, 0.225)


Share = Annotated[float, Meta(ge=0, le=1)]


def require(allowed: bool, field: str, value: Any, rule: str) -> None:
    """Raise RecipeError unless a field's value is allowed."""
    if not allowed:
        raise RecipeError(f"{field} = {value!r}", f"It must be {rule}.", "correct the recipe")


class _Checked:
    """Base class of ops; raises RecipeError if a field is out of its bounds."""

    def __post_init__(self) -> None:
        for field, facts in facts_of(type(self)).items():
            value = getattr(self, field)
            for fact in facts:
                rule = broken_rule(value, fact)
                require(rule is None, f"{_NAMES.get(type(self))}.{field}", value, rule or "")


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop(_Checked):
    """Crop of a random part of the image, resized to a square: torchvision's and timm's op of that name.

    Attributes:
        scale: Bounds of the crop's share of the image's area, uniform.
        ratio: Bounds of width / height, uniform in the logarithm.
    """

    scale: Annotated[tuple[float, float], Span(0, 1)] = (0.08, 1.0)
    ratio: Annotated[tuple[float, float], Span(0, 16)] = (3 / 4, 4 / 3)


@dataclasses.dataclass(frozen=True)
class ResizeRandomCrop(_Checked):
    """Resize of the short side to img_size, then a random square: DeiT III's "simple random crop".

    Attributes:
        padding_px: Pixels added around the resized image by reflection before the square is chosen, at most
            img_size - 1; 4 in DeiT III (deit/augment.py, RandomCrop(padding=4, padding_mode="reflect")).
    """

    padding_px: Annotated[int, Meta(ge=0, le=64)] = 4


@dataclasses.dataclass(frozen=True)
class ResizeCenterCrop(_Checked):
    """Crop of the middle, after the short side is resized to img_size / crop_pct: timm's evaluation.

    Attributes:
        crop_pct: Share of the short side that is kept; 0.875 in DeiT's main.py.
    """

    crop_pct: Annotated[float, Meta(ge=0.05, le=1)] = 0.875


@dataclasses.dataclass(frozen=True)
class HorizontalFlip(_Checked):
    """Horizontal flip, done with `probability`."""

    probability: Share = 0.5


@dataclasses.dataclass(frozen=True)
class RandAugment(_Checked):
    """RandAugment of timm with increasing magnitudes, "rand-m9-mstd0.5-inc1" (timm/data/auto_augment.py).

    `num_ops` times, one of 15 equally likely ops is chosen and applied with `probability`, at a magnitude
    drawn from a normal distribution and clipped to [0, 10].

    Attributes:
        magnitude: Mean of the magnitude.
        magnitude_std: Standard deviation of the magnitude; 0 keeps the magnitude fixed.
        num_ops: Number of times an op is chosen.
        probability: Probability that a chosen op is applied.
        fill: Pixel value that affine ops bring in from outside; timm's is 255 times the mean, rounded.
    """

    magnitude: Annotated[float, Meta(ge=0, le=10)] = 9.0
    magnitude_std: Annotated[float, Meta(ge=0, le=10)] = 0.5
    num_ops: Annotated[int, Meta(ge=1, le=15)] = 2
    probability: Share = 0.5
    fill: Annotated[tuple[float, ...], Colour(0, 255)] = (124.0, 116.0, 104.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(all(map(float.is_integer, map(float, self.fill))), "rand_augment.fill", self.fill, "whole")


@dataclasses.dataclass(frozen=True)
class ThreeAugment(_Checked):
    """3-Augment of DeiT III: greyscale, solarize or Gaussian blur, equally likely (deit/augment.py).

    Attributes:
        solarize_threshold: Lowest pixel value that is inverted; Pillow's default is 128.
        blur_radius: Bounds of the blur's standard deviation in pixels, uniform.
    """

    solarize_threshold: Annotated[int, Meta(ge=0, le=256)] = 128
    blur_radius: Annotated[tuple[float, float], Span(0, 16)] = (0.1, 2.0)


@dataclasses.dataclass(frozen=True)
class ColorJitter(_Checked):
    """Jitter of brightness, contrast and saturation in a random order: torchvision's op without hue.

    Attributes:
        brightness: Bound x on the factor, which is uniform in [1 - x, 1 + x]; 0.3 in DeiT's main.py.
        contrast: Largest distance of the contrast factor from 1, as for brightness.
        saturation: Largest distance of the saturation factor from 1, as for brightness.
    """

    brightness: Share = 0.3
    contrast: Share = 0.3
    saturation: Share = 0.3


@dataclasses.dataclass(frozen=True)
class RandomErasing(_Checked):
    """Erasing of a random box to noise or the mean: timm/data/random_erasing.py, modes pixel and const.

    Attributes:
        probability: Probability that a view is erased; 0.25 in DeiT (Table 9).
        area: Bounds of the box's share of the view's area, uniform.
        ratio: Bounds of height / width, uniform in the logarithm.
        mode: "pixel" makes every value mean + std * a standard normal; "const" makes every value the mean.
        mean: Mean per channel, of pixels scaled to [0, 1].
        std: Standard deviation per channel, of pixels scaled to [0, 1].
    """

    probability: Share = 0.25
    area: Annotated[tuple[float, float], Span(0, 1)] = (0.02, 1 / 3)
    ratio: Annotated[tuple[float, float], Span(0, 16)] = (0.3, 1 / 0.3)
    mode: Literal["pixel", "const"] = "pixel"
    mean: Annotated[tuple[float, ...], Colour(0, 1)] = IMAGENET_MEAN
    std: Annotated[tuple[float, ...], Colour(0, 1)] = IMAGENET_STD

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.mode in ("pixel", "const"), "random_erasing.mode", self.mode, "pixel or const")


@dataclasses.dataclass(frozen=True)
class MixupCutmix(_Checked):
    """Mixup or cutmix of pairs of views: timm/data/mixup.py, mode "pair"; see views/mixing.py.

    Attributes:
        mixup_alpha: Alpha of Beta(alpha, alpha), which gives the share of a view's own picture; 0 turns mixup
            off.
        cutmix_alpha: Alpha of Beta(alpha, alpha), which gives the share of the area outside the exchanged
            box; 0 turns cutmix off.
        probability: Probability that a pair is mixed.
        switch_probability: Probability of cutmix rather than mixup, where both are on.
        block_rows: Number of consecutive rows of a shard among which partners are found.
    """

    mixup_alpha: float = 0.8
    cutmix_alpha: float = 1.0
    probability: Share = 1.0
    switch_probability: Share = 0.5
    block_rows: Annotated[int, Meta(ge=2, le=65_536)] = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        for field, alpha in (("mixup_alpha", self.mixup_alpha), ("cutmix_alpha", self.cutmix_alpha)):
            rule = "0, or from 0.05 to 2"
            require(alpha == 0 or 0.05 <= alpha <= 2, f"mixup_cutmix.{field}", alpha, rule)
        is_on = self.mixup_alpha > 0 or self.cutmix_alpha > 0
        require(is_on, "mixup_cutmix", self, "left out where both alphas are 0")


Crop = RandomResizedCrop | ResizeRandomCrop | ResizeCenterCrop
PixelOps = RandAugment | ThreeAugment | ColorJitter
Op = Crop | HorizontalFlip | PixelOps | RandomErasing | MixupCutmix

OPS: Mapping[str, type[Op]] = {
    "random_resized_crop": RandomResizedCrop,
    "resize_random_crop": ResizeRandomCrop,
    "resize_center_crop": ResizeCenterCrop,
    "horizontal_flip": HorizontalFlip,
    "rand_augment": RandAugment,
    "three_augment": ThreeAugment,
    "color_jitter": ColorJitter,
    "random_erasing": RandomErasing,
    "mixup_cutmix": MixupCutmix,
}
_NAMES: Mapping[type, str] = {op_type: name for name, op_type in OPS.items()}


def op_name(op: Op) -> str:
    """Return an op's name in JSON and YAML."""
    return _NAMES[type(op)]


def op_to_dict(op: Op) -> dict[str, Any]:
    """Return an op as plain JSON values, all of its fields written out."""
    fields = {
        field: list(value) if isinstance(value, tuple) else value
        for field, value in dataclasses.asdict(op).items()
    }
    return {"op": op_name(op), **fields}


def op_from_dict(document: Any) -> Op:
    """Build an op from JSON or YAML values.

    Raises:
        RecipeError: An op or field is unknown (the message offers the nearest name), or a value is out of
            range.
    """
    require(isinstance(document, Mapping) and "op" in document, "op", document, "a mapping with a field 'op'")
    name = document["op"]
    if not isinstance(name, str) or name not in OPS:
        remedy = nearest(str(name), OPS) or f"known: {', '.join(OPS)}"
        raise RecipeError(f"unknown op {name!r}", "It cannot be rendered.", remedy)
    defaults = {field.name: field.default for field in dataclasses.fields(OPS[name])}
    fields = checked_fields(name, {k: v for k, v in document.items() if k != "op"}, set(defaults))
    values: dict[str, Any] = {
        field: like_default(f"{name}.{field}", value, defaults[field]) for field, value in fields.items()
    }
    return OPS[name](**values)


def checked_fields(what: str, document: Any, known: set[str]) -> dict[str, Any]:
    """Return `document` as a dict; raise RecipeError, with the nearest name, if a field is unknown."""
    require(isinstance(document, Mapping), what, document, "a mapping")
    for field in document:
        if field not in known:
            remedy = nearest(str(field), known) or f"known: {', '.join(sorted(known))}"
            raise RecipeError(f"unknown field {field!r} in {what}", "It would be ignored.", remedy)
    return dict(document)


def like_default(field: str, value: Any, default: Any) -> Any:
    """Return a value converted to the type of its field's default, or raise RecipeError."""
    if isinstance(default, str):
        require(isinstance(value, str), field, value, "a name")
        return value
    if isinstance(default, tuple):
        is_right = isinstance(value, list | tuple) and len(value) == len(default)
        words = {2: "two", 3: "three"}[len(default)]
        require(is_right and all(map(_is_number, value)), field, value, f"{words} numbers")
        return tuple(map(float, value))
    if isinstance(default, int):
        require(type(value) is int, field, value, "a whole number")
        return value
    require(_is_number(value), field, value, "a number")
    return float(value)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max
