"""Augmentation as data: the possible views, with a sha256 that identifies them.

A recipe is an image size and a list of ops (recipe_ops.py); docs/recipes.md lists them with the source of
each number. The name and the order of the JSON fields do not count for a recipe's identity; all else does.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml

from teacher_cache.errors import RecipeError, nearest
from teacher_cache.exact.canonical import sha256_of
from teacher_cache.views.recipe_ops import (
    ColorJitter,
    Crop,
    HorizontalFlip,
    MixupCutmix,
    Op,
    PixelOps,
    RandAugment,
    RandomErasing,
    RandomResizedCrop,
    ResizeCenterCrop,
    ResizeRandomCrop,
    ThreeAugment,
    checked_fields,
    op_from_dict,
    op_name,
    op_to_dict,
    require,
)

VERSION = 1

_STAGES: tuple[tuple[type, ...], ...] = (
    get_args(Crop),
    (HorizontalFlip,),
    get_args(PixelOps),
    (RandomErasing,),
    (MixupCutmix,),
)
_ORDER_RULE = (
    "one crop first; then, each at most once: horizontal_flip, pixel ops in any order, "
    "random_erasing, mixup_cutmix"
)
_Kind = TypeVar("_Kind")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Recipe of views; interpolation is always torch's antialiased uint8 bicubic.

    Attributes:
        name: Name for display, not part of the identity.
        img_size: Side of a view in pixels.
        ops: Ops in timm's order: one crop, then at most one of each other op (flip, pixel ops, erasing,
            mixing).
    """

    name: str
    img_size: int
    ops: tuple[Op, ...]

    def __post_init__(self) -> None:
        require(1 <= self.img_size <= 4096, "img_size", self.img_size, "from 1 to 4096 px")
        stages = [next(n for n, stage in enumerate(_STAGES) if isinstance(op, stage)) for op in self.ops]
        in_order = stages == sorted(stages) and stages[:1] == [0] and 0 not in stages[1:]
        once = len({type(op) for op in self.ops}) == len(self.ops)
        require(in_order and once, "ops", [op_name(op) for op in self.ops], _ORDER_RULE)

    @functools.cached_property
    def crop(self) -> Crop:
        """Crop that the recipe begins with."""
        return self.ops[0]  # type: ignore[return-value]  # __post_init__ checks it

    @functools.cached_property
    def flip_probability(self) -> float:
        """Probability that a view is flipped."""
        flip = self._only(HorizontalFlip)
        return flip.probability if flip else 0.0

    @functools.cached_property
    def pixel_ops(self) -> tuple[PixelOps, ...]:
        """Ops on uint8 pixels, in order."""
        return tuple(op for op in self.ops if isinstance(op, PixelOps))

    @functools.cached_property
    def fill(self) -> tuple[float, ...]:
        """Pixel value that affine ops bring in from outside; only rand_augment has such ops."""
        rand_augment = self._only(RandAugment)
        return rand_augment.fill if rand_augment else (0.0, 0.0, 0.0)

    @functools.cached_property
    def erasing(self) -> RandomErasing | None:
        """Erasing op, or None."""
        return self._only(RandomErasing)

    @functools.cached_property
    def mixing(self) -> MixupCutmix | None:
        """Mixing op, or None."""
        return self._only(MixupCutmix)

    def _only(self, kind: type[_Kind]) -> _Kind | None:
        return next((op for op in self.ops if isinstance(op, kind)), None)

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as plain JSON values."""
        ops = [op_to_dict(op) for op in self.ops]
        return {"version": VERSION, "name": self.name, "img_size": self.img_size, "ops": ops}

    @functools.cached_property
    def sha256(self) -> str:
        """Identity of the recipe: sha256 of its canonical JSON without the name."""
        return sha256_of({field: value for field, value in self.to_dict().items() if field != "name"})


def deit(img_size: int) -> Recipe:
    """Return DeiT's full augmentation (Touvron et al., ICML 2021, Table 9, and deit/main.py's defaults)."""
    ops = (RandomResizedCrop(), HorizontalFlip(), RandAugment(), RandomErasing(), MixupCutmix())
    return Recipe("deit", img_size, ops)


def deit3(img_size: int) -> Recipe:
    """Return DeiT III's full augmentation.

    Sources: Touvron et al., ECCV 2022, section 3.2; deit/augment.py and README_revenge.md.
    """
    ops = (ResizeRandomCrop(), HorizontalFlip(), ThreeAugment(), ColorJitter(), MixupCutmix())
    return Recipe("deit3", img_size, ops)


def rrc(img_size: int) -> Recipe:
    """Return RandomResizedCrop(0.08-1) and a flip of probability 0.5, as used to train ResNets."""
    return Recipe("rrc", img_size, (RandomResizedCrop(), HorizontalFlip()))


def evaluation(img_size: int, crop_pct: float = ResizeCenterCrop.crop_pct) -> Recipe:
    """Return resize and centre crop; all views of an image are the same."""
    return Recipe("eval", img_size, (ResizeCenterCrop(crop_pct),))


NAMED: Mapping[str, Callable[[int], Recipe]] = {
    "deit": deit,
    "deit3": deit3,
    "rrc": rrc,
    "eval": evaluation,
}


def from_dict(document: Any) -> Recipe:
    """Build a recipe from JSON or YAML values.

    Raises:
        RecipeError: A version, op or field is unknown (the message offers the nearest names), or a value is
            out of range.
    """
    fields = checked_fields("recipe", document, {"version", "name", "img_size", "ops"})
    if fields.get("version", VERSION) != VERSION:
        raise RecipeError(
            f"recipe version {fields['version']!r}",
            f"This release reads only version {VERSION}.",
            "use the release of teacher-cache that wrote the recipe",
        )
    require(isinstance(fields.get("ops"), list), "ops", fields.get("ops"), "a list")
    require(
        type(fields.get("img_size")) is int, "img_size", fields.get("img_size"), "a whole number of pixels"
    )
    return Recipe(
        str(fields.get("name", "custom")), fields["img_size"], tuple(op_from_dict(op) for op in fields["ops"])
    )


def load_recipe(name_or_file: str, img_size: int | None) -> Recipe:
    """Return a named recipe at an image size, or one from a YAML or JSON file.

    Args:
        name_or_file: Name in NAMED, or a path ending in .yaml, .yml or .json.
        img_size: Side of a view in pixels; None takes the file's, or 224 for a named recipe.

    Raises:
        RecipeError: The name or file does not exist, or the recipe is not valid.
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
