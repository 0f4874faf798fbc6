"""Several archives of the same views, read as one: their teachers teach together."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from teacher_cache.archive.format.spec import ArchiveSpec
from teacher_cache.archive.readers.source import LabelLookup, LabelSource, view_ranges
from teacher_cache.errors import ArchiveError, InputError
from teacher_cache.labels.arrays import LabelArrays
from teacher_cache.labels.topk import EnsembleAffinity, EnsembleLabels
from teacher_cache.views.recipe import Recipe

if TYPE_CHECKING:
    from teacher_cache.dataset.index import DatasetInfo

Ints = npt.NDArray[np.int64]


class LabelEnsemble:
    """Labels of several teachers for the views that all of them labelled.

    Args:
        members: Archives or exports of the same dataset, classes and recipe, two or more.
        weights: Weight of each in the mean of probabilities; equal by default.

    Attributes:
        weights: Weights, of sum 1.
        url: URLs of the members, as text.
        spec: Spec of the first member; only dataset, recipe and classes hold for all.
        views: View indices that every sample has in every member, ascending.
        fingerprint: Fingerprints of the members.

    Raises:
        ArchiveError: Two members differ in dataset, classes or recipe, or are the same archive; or no view
            is in all.
        InputError: The weights are not one positive number for each member.
    """

    def __init__(self, members: Sequence[LabelSource], weights: Sequence[float] = ()) -> None:
        if weights and (len(weights) != len(members) or not all(0 < weight < np.inf for weight in weights)):
            raise InputError(
                f"--label-weights {' '.join(map(str, weights))} for {len(members)} archives",
                "Each teacher has one weight, above 0.",
                "give as many as --labels, or leave them out for equal ones",
            )
        first = members[0]
        for other in members[1:]:
            _check_same(first, other)
        fingerprints = [member.fingerprint for member in members]
        if len(set(fingerprints)) < len(fingerprints):
            raise ArchiveError(
                f"{len(members)} archives, two of which have the same fingerprint",
                "One teacher would count twice.",
                "give each archive once, and its weight with --label-weights",
            )
        self.members, self.fingerprint = tuple(members), fingerprints
        total = sum(weights) if weights else len(members)
        self.weights = tuple(weight / total for weight in weights or (1.0,) * len(members))
        self.url = " and ".join(member.url for member in members)
        self.spec: ArchiveSpec = first.spec
        self.views = sorted(set.intersection(*(set(member.views) for member in members)))
        if not self.views:
            held = ", ".join(f"{member.url} {view_ranges(member.views)}" for member in members)
            raise ArchiveError(
                f"no view is in all {len(members)} archives: {held}",
                "There is nothing to average.",
                "extract views that they share",
            )

    @property
    def shards(self) -> tuple[int, ...] | None:
        """Image shards that have labels of every member, rising; None where all have."""
        parts = [set(member.shards) for member in self.members if member.shards is not None]
        return tuple(sorted(set.intersection(*parts))) if parts else None

    @property
    def recipe(self) -> Recipe:
        """Augmentation that was labelled."""
        return self.members[0].recipe

    @functools.cached_property
    def affinity(self) -> EnsembleAffinity:
        """Class affinity of each archive; see `LabelSource.affinity`."""
        return EnsembleAffinity(tuple(member.affinity for member in self.members))

    def check_replay(self, dataset: DatasetInfo) -> None:
        """Refuse a dataset or views that the labels were not made for; see `LabelSource.check_replay`."""
        for member in self.members:
            member.check_replay(dataset)

    def lookup(self, rows_B: Ints, views_B: Ints) -> EnsembleLabels:
        """Return the labels of each (row, view), on the CPU; see `LabelSource.lookup`."""
        return self.decode(tuple(member.lookup_stored(rows_B, views_B) for member in self.members))

    def decode(self, arrays: Sequence[LabelArrays]) -> EnsembleLabels:
        """Return labels that a lookup gave, as tensors on the CPU."""
        import torch

        labels = (member.decode(one) for member, one in zip(self.members, arrays, strict=True))
        return EnsembleLabels(tuple(labels), torch.tensor(self.weights))

    def keeping(self, num_kept: int) -> EnsembleLookup:
        """Return a new lookup, which keeps the labels of `num_kept` (shard, view) pairs in memory."""
        return EnsembleLookup([member.keeping(num_kept) for member in self.members])


class EnsembleLookup:
    """Lookup of several archives' labels; see `LabelLookup`.

    Attributes:
        num_kept: Number of (shard, view) pairs whose labels are cached for each archive.
        is_local: Whether all labels are read from local folders.
    """

    def __init__(self, members: Sequence[LabelLookup]) -> None:
        self._members = members
        self.num_kept = members[0].num_kept
        self.is_local = all(member.is_local for member in members)

    def __call__(self, rows_B: Ints, views_B: Ints) -> tuple[LabelArrays, ...]:
        """Return the labels of each (row, view) as stored: `LabelEnsemble.decode` makes tensors of them."""
        return tuple(member(rows_B, views_B) for member in self._members)

    def pairs(self, rows_B: Ints, views_B: Ints) -> list[tuple[int, int]]:
        """Return the distinct (shard, view) pairs that hold the labels of these rows and views, sorted."""
        return self._members[0].pairs(rows_B, views_B)

    def fetch(self, shard: int, view: int) -> None:
        """Read the labels of a shard and a view, and keep them; any thread may call this."""
        for member in self._members:
            member.fetch(shard, view)


def _check_same(first: LabelSource, other: LabelSource) -> None:
    facts = {
        "dataset": [source.spec.dataset["sha256"] for source in (first, other)],
        "class list": [source.spec.labels.classes_sha256 for source in (first, other)],
        "number of classes": [str(source.spec.labels.num_classes) for source in (first, other)],
        "recipe": [source.recipe.sha256 for source in (first, other)],
    }
    for name, (ours, theirs) in facts.items():
        if ours != theirs:
            raise ArchiveError(
                f"{first.url} is of {name} {ours[:12]}, {other.url} of {theirs[:12]}",
                "Their labels differ in views or in classes, so they cannot be averaged.",
                "give archives of the same dataset, classes and recipe",
            )
