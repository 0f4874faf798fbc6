"""Agreement of a teacher with the true labels of some views: measured, and judged against chance.

In a share a of N views, the teacher's top class is the true label. Chance alone would give the share

    p = sum over classes of (share of the label) (share of the top class).

A teacher fits if a > p + min(p, (1 - p) / 10), and chance alone gives a or more with a probability of at
most 1 % (Chernoff's bound, exp(-N KL(a || p))). Otherwise, agreement is near chance if a teacher with a true
share of s = p + (1 - p) / 10 would give a or less with a probability of at most 1 %; if not, N is too small
to decide. Classes are in another order if a one-to-one map from labels to top classes, fitted to one half of
the views, is right in more than 1.5 times as many views of the other half as without the map, and by
more than three standard deviations.
"""

from __future__ import annotations

import collections
import dataclasses
import math
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Meta

Verdict = Literal["fits", "too few views", "near chance", "another order"]

_SIGNIFICANT = 0.01
_LEAST_SKILL = 0.1
"""Share of the views missed by chance that a teacher worth distilling gets right, mixed views included."""
_Ints = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Agreement of a teacher's top classes with true labels.

    Attributes:
        views: Number of views compared.
        agreed: Number of views whose top class is the label.
        chance: Share that would agree if top classes and labels had nothing to do with each other.
        mapped: Number of views that agree after mapping classes one to one, as fitted to the other half.
        verdict: Judgement of these numbers.
        example: A label and the different class that the map assigns to it; None if it changes no label.
    """

    views: Annotated[int, Meta(ge=1)]
    agreed: Annotated[int, Meta(ge=0)]
    chance: Annotated[float, Meta(ge=0, le=1)]
    mapped: Annotated[int, Meta(ge=0)]
    verdict: Verdict
    example: tuple[int, int] | None = None

    @property
    def share(self) -> float:
        """Share of the views that agree."""
        return self.agreed / self.views

    def __str__(self) -> str:
        text = f"the teacher's top class is the label in {self.agreed:,} of {self.views:,} views "
        return f"{text}({self.share:.1%}; by chance {self.chance:.1%}): {self.verdict}"


def agreement_of(top_N: _Ints, labels_N: _Ints) -> Agreement | None:
    """Return the agreement of top classes with labels; None if no view has a label (-1)."""
    is_known_N = labels_N >= 0
    top_N, labels_N = top_N[is_known_N], labels_N[is_known_N]
    if not len(top_N):
        return None
    num_classes = int(max(top_N.max(), labels_N.max())) + 1
    shares = [np.bincount(ids, minlength=num_classes) / len(ids) for ids in (top_N, labels_N)]
    first, second = slice(0, None, 2), slice(1, None, 2)
    maps = [_best_map(top_N[half], labels_N[half]) for half in (first, second)]
    mapped = sum(
        sum(
            best.get(label) == top
            for label, top in zip(labels_N[half].tolist(), top_N[half].tolist(), strict=True)
        )
        for best, half in zip(maps, (second, first), strict=True)
    )
    example = next(((label, top) for label, top in maps[0].items() if label != top), None)
    views, agreed, chance = len(top_N), int((top_N == labels_N).sum()), float(shares[0] @ shares[1])
    verdict = _judged(views, agreed, chance, mapped)
    return Agreement(views, agreed, chance, mapped, verdict, example)


def _judged(views: int, agreed: int, chance: float, mapped: int) -> Verdict:
    share = agreed / views
    spread = math.sqrt(views * max(share * (1 - share), 1 / views))
    if mapped > 1.5 * agreed and mapped - agreed > 3 * spread:
        return "another order"
    is_high = share > chance + min(chance, _LEAST_SKILL * (1 - chance))
    if is_high and _tail(share, chance, views) <= _SIGNIFICANT:
        return "fits"
    skilled = chance + _LEAST_SKILL * (1 - chance)
    is_low = share < skilled and _tail(share, skilled, views) <= _SIGNIFICANT
    return "near chance" if is_low else "too few views"


def _best_map(top_N: _Ints, labels_N: _Ints) -> dict[int, int]:
    """Return a one-to-one map from labels to top classes, the most frequent pairs first."""
    pairs = collections.Counter(zip(labels_N.tolist(), top_N.tolist(), strict=True))
    best: dict[int, int] = {}
    taken: set[int] = set()
    for (label, top), _ in sorted(
        pairs.items(), key=lambda item: (-item[1], item[0][0] != item[0][1], item[0])
    ):
        if label not in best and top not in taken:
            best[label] = top
            taken.add(top)
    return best


def _tail(share: float, expected: float, views: int) -> float:
    """Return Chernoff's bound of the probability of a share at least as far from the expected one."""
    parts = ((share, expected), (1 - share, 1 - expected))
    divergence = sum(a * math.log(a / max(p, 1e-12)) for a, p in parts if a > 0)
    return math.exp(-views * divergence)
