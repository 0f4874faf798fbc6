"""The augmentation as data: what a view may look like, with a sha256 that names it.

A recipe is an image size and a list of ops. Each op is a frozen dataclass; its fields are its parameters,
in canonical JSON under its snake_case name. A recipe's name and the order of its JSON fields mean nothing,
its ops and their numbers everything.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from teacher_cache.canonical import sha256_of
from teacher_cache.errors import RecipeError, nearest

VERSION = 1


def _require(allowed: bool, field: str, value: Any, rule: str) -> None:
    if not allowed:
        raise RecipeError(f"{field} = {value!r}", f"It must be {rule}.", "correct the recipe")


def _check_range(field: str, value: tuple[float, float], low: float, high: float) -> None:
    rule = f"two numbers, {low} < first <= second <= {high}"
    is_pair = len(value) == 2 and all(isinstance(bound, int | float) for bound in value)
    _require(is_pair and low < value[0] <= value[1] <= high, field, value, rule)


@dataclasses.dataclass(frozen=True)
class RandomResizedCrop:
    """A random part of the image, resized to a square: torchvision's and timm's op of that name.

    Attributes:
        scale: Bounds of the crop's share of the image's area, uniform.
        ratio: Bounds of width / height, uniform in the logarithm.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        _check_range("random_resized_crop.scale", self.scale, 0, 1)
        _check_range("random_resized_crop.ratio", self.ratio, 0, 16)


@dataclasses.dataclass(frozen=True)
class ResizeCenterCrop:
    """The middle of the image, after its short side is resized to img_size / crop_pct: timm's evaluation.

    Attributes:
        crop_pct: Share of the short side that is kept; 0.875 in DeiT's main.py.
    """

    crop_pct: float = 0.875

    def __post_init__(self) -> None:
        _require(0 < self.crop_pct <= 1, "resize_center_crop.crop_pct", self.crop_pct, "in (0, 1]")


@dataclasses.dataclass(frozen=True)
class HorizontalFlip:
    """Left and right exchanged, with a probability."""

    probability: float = 0.5

    def __post_init__(self) -> None:
        _require(0 <= self.probability <= 1, "horizontal_flip.probability", self.probability, "in [0, 1]")


Crop = RandomResizedCrop | ResizeCenterCrop
Op = Crop | HorizontalFlip

OPS: Mapping[str, type[Op]] = {
    "random_resized_crop": RandomResizedCrop,
    "resize_center_crop": ResizeCenterCrop,
    "horizontal_flip": HorizontalFlip,
}
_OP_NAMES = {op_type: name for name, op_type in OPS.items()}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All views of one kind. Interpolation is torch's antialiased uint8 bicubic, always.

    Attributes:
        name: What people call it; not part of its identity.
        img_size: Side of a view in pixels.
        ops: One crop first, then at most one of each other op.
    """

    name: str
    img_size: int
    ops: tuple[Op, ...]

    def __post_init__(self) -> None:
        _require(1 <= self.img_size <= 4096, "img_size", self.img_size, "from 1 to 4096 px")
        kinds = [type(op) for op in self.ops]
        crop_first = bool(kinds) and kinds[0] in (RandomResizedCrop, ResizeCenterCrop)
        _require(
            crop_first and kinds[1:] in ([], [HorizontalFlip]),
            "ops",
            [_OP_NAMES[kind] for kind in kinds],
            "a crop (random_resized_crop or resize_center_crop), then at most one horizontal_flip",
        )

    @property
    def crop(self) -> Crop:
        """The op that every recipe begins with."""
        return self.ops[0]  # type: ignore[return-value]  # __post_init__ holds it

    @property
    def flip_probability(self) -> float:
        """Probability that a view is flipped."""
        return next((op.probability for op in self.ops if isinstance(op, HorizontalFlip)), 0.0)

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain JSON values."""
        ops = [{"op": _OP_NAMES[type(op)], **_jsonable(op)} for op in self.ops]
        return {"version": VERSION, "name": self.name, "img_size": self.img_size, "ops": ops}

    @functools.cached_property
    def sha256(self) -> str:
        """The recipe's identity: sha256 of its canonical JSON without its name."""
        return sha256_of({field: value for field, value in self.to_dict().items() if field != "name"})


def _jsonable(op: Op) -> dict[str, Any]:
    return {
        field: [float(number) for number in value] if isinstance(value, tuple) else float(value)
        for field, value in dataclasses.asdict(op).items()
    }


def rrc(img_size: int) -> Recipe:
    """Crop and flip: RandomResizedCrop(0.08-1) and a flip of probability 0.5, as ResNets are trained."""
    return Recipe("rrc", img_size, (RandomResizedCrop(), HorizontalFlip()))


def evaluation(img_size: int, crop_pct: float = ResizeCenterCrop.crop_pct) -> Recipe:
    """Resize and centre crop; every view of an image is the same."""
    return Recipe("eval", img_size, (ResizeCenterCrop(crop_pct),))


NAMED: Mapping[str, Callable[[int], Recipe]] = {"rrc": rrc, "eval": evaluation}


def from_dict(document: Any) -> Recipe:
    """Build a recipe from JSON or YAML values.

    Raises:
        RecipeError: An unknown version, op or field (the nearest names are offered), or a value out of range.
    """
    fields = _checked_fields("recipe", document, {"version", "name", "img_size", "ops"})
    if fields.get("version", VERSION) != VERSION:
        raise RecipeError(
            f"recipe version {fields['version']!r}",
            f"This program knows version {VERSION}.",
            "use the release that wrote it",
        )
    _require(isinstance(fields.get("ops"), list), "ops", fields.get("ops"), "a list")
    _require(
        type(fields.get("img_size")) is int, "img_size", fields.get("img_size"), "a whole number of pixels"
    )
    return Recipe(
        str(fields.get("name", "custom")), fields["img_size"], tuple(_op_from(op) for op in fields["ops"])
    )


def _op_from(document: Any) -> Op:
    _require(
        isinstance(document, Mapping) and "op" in document, "op", document, "a mapping with a field 'op'"
    )
    name = document["op"]
    if not isinstance(name, str) or name not in OPS:
        remedy = nearest(str(name), OPS) or f"known: {', '.join(OPS)}"
        raise RecipeError(f"unknown op {name!r}", "It cannot be rendered.", remedy)
    op_type = OPS[name]
    known = {field.name for field in dataclasses.fields(op_type)}
    fields = _checked_fields(name, {k: v for k, v in document.items() if k != "op"}, known)
    defaults = {field.name: field.default for field in dataclasses.fields(op_type)}
    return op_type(
        **{
            field: _numbers(f"{name}.{field}", value, is_pair=isinstance(defaults[field], tuple))
            for field, value in fields.items()
        }
    )


def _numbers(field: str, value: Any, is_pair: bool) -> Any:
    numbers = value if is_pair and isinstance(value, list | tuple) else [value]
    is_numeric = all(type(number) in (int, float) and math.isfinite(number) for number in numbers)
    _require(
        is_numeric and len(numbers) == 1 + is_pair, field, value, "two numbers" if is_pair else "a number"
    )
    return tuple(map(float, numbers)) if is_pair else float(value)


def _checked_fields(what: str, document: Any, known: set[str]) -> dict[str, Any]:
    _require(isinstance(document, Mapping), what, document, "a mapping")
    for field in document:
        if field not in known:
            remedy = nearest(str(field), known) or f"known: {', '.join(sorted(known))}"
            raise RecipeError(f"unknown field {field!r} in {what}", "It would be ignored.", remedy)
    return dict(document)


def load(name_or_file: str, img_size: int | None) -> Recipe:
    """Return a named recipe at an image size, or one from a YAML or JSON file.

    Args:
        name_or_file: A name of NAMED, or a path ending in .yaml, .yml or .json.
        img_size: Side of a view in pixels. None: a file's own, or 224 for a named recipe.

    Raises:
        RecipeError: No such name or file, or a recipe that is not valid.
    """
    if name_or_file in NAMED:
        return NAMED[name_or_file](224 if img_size is None else img_size)
    path = Path(name_or_file)
    if path.suffix not in (".yaml", ".yml", ".json"):
        remedy = nearest(name_or_file, NAMED) or f"known: {', '.join(NAMED)}, or a .yaml file"
        raise RecipeError(f"unknown recipe {name_or_file!r}", "No view can be rendered.", remedy)
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise RecipeError(f"recipe file {name_or_file!r} cannot be read: {error}") from error
    if isinstance(document, Mapping) and img_size is not None:
        document = {**document, "img_size": img_size}
    return from_dict(document)
