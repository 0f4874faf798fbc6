"""Checks of the fields of a recipe and its ops; every error names the field, its value and the rule."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from teacher_cache.errors import RecipeError, nearest


def require(allowed: bool, field: str, value: Any, rule: str) -> None:
    """Raise RecipeError unless a field's value is allowed."""
    if not allowed:
        raise RecipeError(f"{field} = {value!r}", f"It must be {rule}.", "correct the recipe")


def check_range(field: str, value: tuple[float, float], low: float, high: float) -> None:
    """Raise RecipeError unless low < first <= second <= high."""
    rule = f"two numbers, {low} < first <= second <= {high}"
    is_pair = len(value) == 2 and all(isinstance(bound, int | float) for bound in value)
    require(is_pair and low < value[0] <= value[1] <= high, field, value, rule)


def check_between(field: str, value: float, low: float, high: float) -> None:
    """Raise RecipeError unless low <= value <= high."""
    require(low <= value <= high, field, value, f"from {low:g} to {high:g}")


def check_color(field: str, value: tuple[float, ...], low: float, high: float) -> None:
    """Raise RecipeError unless the value is three numbers from low to high."""
    rule = f"three numbers from {low:g} to {high:g}, for red, green and blue"
    require(len(value) == 3 and all(low <= number <= high for number in value), field, value, rule)


def checked_fields(what: str, document: Any, known: set[str]) -> dict[str, Any]:
    """Return a mapping whose fields are all known, or raise a RecipeError that offers the nearest name."""
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
