"""Bounds of values, stated on their fields in `Annotated`; flags and recipes are checked against them.

topk: Annotated[int, Meta(ge=1)] = 10
scale: Annotated[tuple[float, float], Span(0, 1)] = (0.08, 1.0)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, get_type_hints

from msgspec import Meta


class Span(NamedTuple):
    """Bounds of a pair: low < first <= second <= high."""

    low: float
    high: float


class Colour(NamedTuple):
    """Bounds of each of three numbers, for red, green and blue."""

    low: float
    high: float


def facts_of(kind: type) -> Mapping[str, tuple[Any, ...]]:
    """Return the `Annotated` metadata of each field of a dataclass, by field name."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: getattr(hints[field.name], "__metadata__", ()) for field in dataclasses.fields(kind)}


def broken_rule(value: Any, fact: object) -> str | None:
    """Return the rule that a value breaks, in words, such as "from 0 to below 1"; None if it breaks none."""
    if isinstance(fact, Span):
        first, second = value
        is_inside = fact.low < first <= second <= fact.high
        return None if is_inside else f"two numbers, {fact.low} < first <= second <= {fact.high}"
    if isinstance(fact, Colour):
        is_inside = len(value) == 3 and all(fact.low <= number <= fact.high for number in value)
        of_each = f"from {fact.low:g} to {fact.high:g}, for red, green and blue"
        return None if is_inside else f"three numbers {of_each}"
    return _rule(fact) if isinstance(fact, Meta) and not _is_inside(value, fact) else None


def _is_inside(value: float, bounds: Meta) -> bool:
    return (
        (bounds.ge is None or value >= bounds.ge)
        and (bounds.gt is None or value > bounds.gt)
        and (bounds.le is None or value <= bounds.le)
        and (bounds.lt is None or value < bounds.lt)
    )


def _rule(bounds: Meta) -> str:
    """Return bounds in words: "1 or more", "from 0 to below 1"."""
    if bounds.le is None and bounds.lt is None:
        return f"{bounds.ge} or more" if bounds.gt is None else f"above {bounds.gt}"
    least = f"from {bounds.ge}" if bounds.gt is None else f"above {bounds.gt}"
    return f"{least} to {bounds.le}" if bounds.lt is None else f"{least} to below {bounds.lt}"
