"""Pairing and mixing of views, as pure functions of the recipe, the sample keys and the view.

The rows of a shard are taken in blocks (256, part of the recipe). For every 12 consecutive views a random
stream shuffles a block's rows into new rings of up to 16; in each of those views the ring plays another
round of a round-robin tournament. So each view has its own pairing, which depends on no batch, order or rank.
The 16 x 12 views of a ring are mixed among themselves: each image is decoded once and rendered in all 12
views, and no partner is missing.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from teacher_cache.exact.streams import Purpose, RandomStream, permutation, sample_id, view_seed
from teacher_cache.views.recipe import Recipe
from teacher_cache.views.recipe_ops import MixupCutmix
from teacher_cache.views.sampling import Box

ROWS_PER_RING = 16
VIEWS_PER_RING = 12

_NO_BOX = Box(0, 0, 0, 0)


class Mix(NamedTuple):
    """Mixing of a view with its partner, with the same numbers for both views.

    Attributes:
        blend: Weight of a view's own pixels outside the box; 1 leaves them unmixed.
        box: Box that is copied from the partner's picture; height 0 means no box.
        weight: Share of a view's own image in the whole view: the weight of its true label.
    """

    blend: float
    box: Box
    weight: float


UNMIXED = Mix(1.0, _NO_BOX, 1.0)


def sample_mix(recipe: Recipe, key: str, view: int) -> Mix:
    """Return how two views are mixed, as timm's Mixup draws it; `key` is that of the first image."""
    op, size = recipe.mixing, recipe.img_size
    assert op is not None
    stream = RandomStream((view_seed(recipe.sha256, key, view), sample_id(key)), Purpose.MIX)
    if stream.uniform() >= op.probability:
        return UNMIXED
    if not _is_cutmix(op, stream):
        blend = stream.beta(op.mixup_alpha)
        return Mix(blend, _NO_BOX, blend)
    side = math.sqrt(1 - stream.beta(op.cutmix_alpha))
    cut = int(size * side)
    center_y, center_x = stream.integer(size), stream.integer(size)
    top, left = max(center_y - cut // 2, 0), max(center_x - cut // 2, 0)
    bottom, right = min(center_y + (cut + 1) // 2, size), min(center_x + (cut + 1) // 2, size)
    box = Box(top, left, bottom - top, right - left)
    return Mix(1.0, box, 1 - box.height * box.width / size**2)


def _is_cutmix(op: MixupCutmix, stream: RandomStream) -> bool:
    if op.mixup_alpha and op.cutmix_alpha:
        return stream.uniform() < op.switch_probability
    return op.cutmix_alpha > 0


def ring_bounds(count: int) -> npt.NDArray[np.int64]:
    """Return the bounds of the rings of `count` rows: of nearly equal size, all but the last one even."""
    rings = -(-count // ROWS_PER_RING)
    bounds = 2 * (np.arange(rings + 1) * -(-count // 2) // rings)
    bounds[-1] = count
    return bounds


def partners_in_ring(size: int, round_number: int) -> npt.NDArray[np.int64]:
    """Return the partner of each position in one round of a ring; in an odd ring one is its own partner.

    This is the circle method. Among an odd number n of positions, two are partners if their sum is twice the
    round modulo n. In an even ring, the position left over gets the last position as its partner.
    """
    if size == 1:
        return np.zeros(1, np.int64)
    odd = size - 1 + size % 2
    places = np.arange(odd)
    partners = (2 * round_number - places) % odd
    if size == odd:
        return partners
    alone = round_number % odd
    partners[alone] = odd
    return np.append(partners, alone)


@dataclasses.dataclass(frozen=True, eq=False)
class Mixing:
    """Pairings of a dataset's rows under a recipe.

    Attributes:
        recipe: Recipe with a mixing op.
        key_of: Function that returns the sample key of a row.
        rows_per_shard: Number of samples in every shard but the last.
    """

    recipe: Recipe
    key_of: Callable[[int], str]
    num_rows: int
    rows_per_shard: int

    def partners(self, rows_N: npt.NDArray[np.int64], view: int) -> npt.NDArray[np.int64]:
        """Return each row's partner in a view; a row that stays alone is its own partner."""
        starts_N = self._block_starts(rows_N)
        partners_N = np.empty_like(rows_N)
        for start in np.unique(starts_N).tolist():
            members = starts_N == start
            partners_N[members] = _block_partners(self, start, view)[rows_N[members] - start]
        return partners_N

    def mixing_groups(self, rows: range, views: Sequence[int]) -> npt.NDArray[np.int64]:
        """Return, for each row, the first row of its mixing group: rows it is mixed with in any of `views`.

        For one view the group is the pair; for several it is the ring in the first view's arrangement.
        """
        rows_N = np.arange(rows.start, rows.stop)
        if len(views) == 1:
            return np.minimum(rows_N, self.partners(rows_N, views[0]))
        firsts_N = np.empty_like(rows_N)
        for ring in self.rings(rows, views[0]):
            firsts_N[ring - rows.start] = ring.min()
        return firsts_N

    def rings(self, rows: range, view: int) -> list[npt.NDArray[np.int64]]:
        """Return the rings into which a shard's rows are split for a view, as arrays of rows."""
        starts = range(rows.start, rows.stop, _block_rows(self))
        return [ring for start in starts for ring in _block_rings(self, start, view // VIEWS_PER_RING)]

    def mix(self, row: int, partner: int, view: int) -> Mix:
        """Return the mixing of a row with its partner; UNMIXED if the row is its own partner."""
        if row == partner:
            return UNMIXED
        return sample_mix(self.recipe, self.key_of(min(row, partner)), view)

    def _block_starts(self, rows_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        places_N = rows_N % self.rows_per_shard
        return rows_N - places_N % _block_rows(self)


def _block_rows(mixing: Mixing) -> int:
    assert mixing.recipe.mixing is not None
    return mixing.recipe.mixing.block_rows


@functools.lru_cache(maxsize=4096)
def _block_rings(mixing: Mixing, start: int, group: int) -> list[npt.NDArray[np.int64]]:
    """Return the rings of the block at row `start`, as arrays of rows; `group` is view // VIEWS_PER_RING."""
    shard_stop = (start // mixing.rows_per_shard + 1) * mixing.rows_per_shard
    count = min(_block_rows(mixing), shard_stop - start, mixing.num_rows - start)
    key = mixing.key_of(start)
    seed = view_seed(mixing.recipe.sha256, key, group)
    rows = start + permutation(count, RandomStream((seed, sample_id(key)), Purpose.RING))
    return [rows[first:stop] for first, stop in itertools.pairwise(ring_bounds(count))]


@functools.lru_cache(maxsize=4096)
def _block_partners(mixing: Mixing, start: int, view: int) -> npt.NDArray[np.int64]:
    """Return the partner of each row of the block that begins at row `start`."""
    rings = _block_rings(mixing, start, view // VIEWS_PER_RING)
    partners = np.empty(sum(map(len, rings)), np.int64)
    for ring in rings:
        partners[ring - start] = ring[partners_in_ring(len(ring), view % VIEWS_PER_RING)]
    return partners
