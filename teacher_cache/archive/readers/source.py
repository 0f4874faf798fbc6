"""Sources of labels: the reading interface that an archive and its export share."""

from __future__ import annotations

import abc
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from teacher_cache.archive.format.spec import ArchiveSpec
from teacher_cache.errors import ArchiveError, DamagedError
from teacher_cache.labels.arrays import BasisArrays, LabelArrays, SharedArrays, empty_labels
from teacher_cache.labels.codec import LabelRows, decode, decode_affinity, decode_basis, decode_rows
from teacher_cache.labels.topk import OneAffinity, OneLabels
from teacher_cache.storage.store import Store
from teacher_cache.views import recipe as recipes
from teacher_cache.views.recipe import Recipe

if TYPE_CHECKING:
    from teacher_cache.dataset.index import DatasetInfo

Ints = npt.NDArray[np.int64]
_KEPT = 32
"""Pairs of a shard and a view whose labels `lookup` keeps in memory."""


class LabelSource(abc.ABC):
    """Labels of views of a packed dataset, cheap to pickle: archive.py, read_tars.py.

    Attributes:
        spec: Spec of the labels: dataset, recipe, teacher, and the meaning of the numbers.
        views: View indices that every sample has, rising; in a part of an archive, every sample of `shards`.
    """

    url: str
    spec: ArchiveSpec
    views: list[int]

    @property
    def shards(self) -> tuple[int, ...] | None:
        """Image shards that have labels, rising; None where all have."""
        return None

    @abc.abstractmethod
    def stored(self, shard: int, view: int) -> LabelArrays:
        """Return the labels of one view of all samples of a shard, in order, as they are stored.

        Raises:
            ArchiveError: The labels are missing or damaged; the message says which ones.
        """

    def labels(self, shard: int, view: int) -> OneLabels:
        """Return the labels of one view of all samples of a shard, in order; see `stored`."""
        return self.decode(self.stored(shard, view))

    def decode(self, arrays: LabelArrays) -> OneLabels:
        """Convert labels returned by `stored` or a lookup to tensors on the CPU."""
        return decode(arrays, self.spec.labels.num_classes, self.spec.labels.values)

    def decode_rows(self, arrays: LabelArrays) -> LabelRows:
        """Convert labels returned by `stored` or a lookup to NumPy arrays of ids, logits and tails."""
        return decode_rows(arrays, self.spec.labels.num_classes, self.spec.labels.values)

    def lookup(self, rows_B: Ints, views_B: Ints) -> OneLabels:
        """Return the label of each (row, view), on the CPU.

        The labels of the shards used last stay in memory, so rows of few shards are looked up fast.

        Args:
            rows_B: int64, rows of the dataset.
            views_B: int64, view indices.

        Raises:
            ArchiveError: A label is missing or damaged.
        """
        return self.decode(self.lookup_stored(rows_B, views_B))

    def lookup_stored(self, rows_B: Ints, views_B: Ints) -> LabelArrays:
        """Return the label of each (row, view) as it is stored; see `lookup`."""
        return self._lookup(rows_B, views_B)

    @functools.cached_property
    def _lookup(self) -> LabelLookup:
        return self.keeping(_KEPT)

    def keeping(self, num_kept: int) -> LabelLookup:
        """Return a new lookup, which keeps the labels of `num_kept` (shard, view) pairs in memory."""
        return LabelLookup(self, num_kept)

    @property
    def members(self) -> tuple[LabelSource, ...]:
        """The source itself, alone in a tuple, as an ensemble has its members."""
        return (self,)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the labels."""
        return self.spec.fingerprint

    @abc.abstractmethod
    def shared_arrays(self) -> SharedArrays | None:
        """Return the class affinity or the basis as it is stored, without checking its numbers."""

    def checked_shared(self) -> SharedArrays | None:
        """Return the class affinity or the basis as it is stored, or None where there is none.

        Raises:
            ArchiveError: It is missing or damaged, or contains an unknown class id or an impossible number.
        """
        arrays = self.shared_arrays()
        if isinstance(arrays, LabelArrays) and not (arrays.idx < self.spec.labels.num_classes).all():
            raise DamagedError(
                f"the class affinity of {self.url} contains a class id outside the list of classes"
            )
        if isinstance(arrays, BasisArrays) and not (
            all(np.isfinite(array).all() for array in arrays)
            and (arrays.basis_error >= 0).all()
            and arrays.basis_error[0] > 0
        ):
            raise DamagedError(
                f"the basis of {self.url} contains a number that no basis has",
                "Tails could not be rebuilt.",
                "copy the archive again",
            )
        return arrays

    @functools.cached_property
    def affinity(self) -> OneAffinity:
        """Class affinity (labels/affinity.py) or basis (labels/components.py), as tensors on the CPU.

        It is None where no label has a tail. Raises as `checked_shared`.
        """
        arrays, labels = self.checked_shared(), self.spec.labels
        if isinstance(arrays, BasisArrays):
            return decode_basis(arrays, labels.num_codes)
        return None if arrays is None else decode_affinity(arrays, labels.num_classes)

    @property
    def recipe(self) -> Recipe:
        """Augmentation that was labelled."""
        return recipes.from_dict(self.spec.recipe)

    def check_replay(self, dataset: DatasetInfo) -> None:
        """Refuse a dataset or views that the labels were not made for; see `check_dataset`, `check_pixels`.

        Raises:
            ArchiveError: The labels belong to another class list or dataset.
            RecipeError: This machine's libraries render other pixels.
        """
        self.check_dataset(dataset)
        self.check_pixels()

    def check_pixels(self) -> None:
        """Refuse views whose pixels differ here. Raises RecipeError."""
        from teacher_cache.views.probe import check_probe  # it renders, which a look at labels does not need

        check_probe(self.recipe, self.spec.probe_sha256, self.spec.made_with)

    def check_dataset(self, dataset: DatasetInfo) -> None:
        """Refuse a dataset that the labels were not made for. Raises ArchiveError."""
        if dataset.class_list.sha256 != self.spec.labels.classes_sha256:
            raise ArchiveError(
                f"archive {self.url} labels {self.spec.labels.num_classes} classes of another class list "
                f"than the dataset's {len(dataset.classes)}",
                "Its class ids would mean other classes.",
                "give --data the dataset that was labelled",
            )
        if not self._is_of(dataset):
            raise ArchiveError(
                f"archive {self.url} labels dataset {self.spec.dataset['sha256'][:12]}, "
                f"not {dataset.sha256[:12]}",
                "Each image would get another image's label.",
                "give --data the dataset that was labelled, or extract labels for this one",
            )

    def _is_of(self, dataset: DatasetInfo) -> bool:
        return dataset.sha256 == self.spec.dataset["sha256"]


class LabelLookup:
    """Lookup of labels by row and view, with a cache of the shards and views used most recently.

    Args:
        num_kept: Number of (shard, view) pairs to cache.

    Attributes:
        num_kept: Number of (shard, view) pairs whose labels are cached.
        is_local: Whether the labels are read from a local folder.
    """

    def __init__(self, source: LabelSource, num_kept: int) -> None:
        self.num_kept, self.is_local = num_kept, Store(source.url).is_local
        self._stored = functools.lru_cache(maxsize=num_kept)(source.stored)
        self._rows_per_shard, self._spec = source.spec.layout.rows_per_shard, source.spec.labels

    def __call__(self, rows_B: Ints, views_B: Ints) -> LabelArrays:
        """Return the label of each (row, view) as stored: `LabelSource.decode` makes tensors of them."""
        shards_B, offsets_B = np.divmod(rows_B, self._rows_per_shard)
        pairs, pair_of_B = np.unique(np.stack([shards_B, views_B]), axis=1, return_inverse=True)
        spec = self._spec
        found = empty_labels((len(rows_B),), spec.k, spec.num_classes, spec.values, spec.num_codes)
        for number, (shard, view) in enumerate(pairs.T.tolist()):
            members = np.nonzero(pair_of_B.reshape(-1) == number)[0]
            for whole, of_shard in zip(found, self._stored(shard, view), strict=True):
                whole[members] = of_shard[offsets_B[members]]
        return found

    def pairs(self, rows_B: Ints, views_B: Ints) -> list[tuple[int, int]]:
        """Return the distinct (shard, view) pairs that hold the labels of these rows and views, sorted."""
        return sorted(set(zip((rows_B // self._rows_per_shard).tolist(), views_B.tolist(), strict=True)))

    def fetch(self, shard: int, view: int) -> None:
        """Read the labels of a shard and a view, and keep them; any thread may call this."""
        self._stored(shard, view)


def view_ranges(views: Sequence[int]) -> str:
    """Return view indices as text: "0:4, 8:12", or "none"."""
    there = set(views)
    starts = [view for view in views if view - 1 not in there]
    stops = [view + 1 for view in views if view + 1 not in there]
    return ", ".join(f"{start}:{stop}" for start, stop in zip(starts, stops, strict=True)) or "none"
