"""Views with labels, epoch by epoch, for any trainer."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from teacher_cache.archive.format.trust import trust_of
from teacher_cache.archive.open import AnySource, LabelPlaces, open_any
from teacher_cache.archive.readers.source import view_ranges
from teacher_cache.batches.batch import ViewBatch
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import InputError
from teacher_cache.labels.topk import AnyAffinity
from teacher_cache.storage.cache import DEFAULT_ROOM, CacheRoom
from teacher_cache.stream.plan import StreamPlan, ViewSchedule
from teacher_cache.stream.position import State, batches_at, state_at
from teacher_cache.stream.shares import given_share, share_of_process
from teacher_cache.stream.stream import ViewStream
from teacher_cache.views.recipe import Recipe, load_recipe

_NEW_VIEWS = 10_000
"""Number of views of a dataset without labels: a new one each epoch, for longer than any run."""


class LabelledViews:
    """Views of a packed dataset with a teacher's labels, epoch by epoch.

    The order is a pure function of the seed: the same for any number of workers, and shared out among the
    processes of a run without overlap. Each epoch sees the next of the archive's views. Which share is this
    process's is asked when an epoch begins, so torch.distributed may be initialized later than this object.

        views = LabelledViews("data/train", labels="labels", batch_size=256)
        for epoch in range(views.next_epoch, 300):
            for batch in views.epoch(epoch, workers=8): ...

    Args:
        data: Packed dataset, or its URL.
        labels: Archive or export of labels, or its URL, or URLs of several whose teachers teach together by
            the mean of their probabilities; None gives views without labels.
        batch_size: Views in a batch of this process.
        label_weights: Weight of each of several teachers in the mean; equal by default.
        seed: Seed of the order of samples.
        recipe: Recipe, its name or YAML file, for views without labels; an archive brings its own.
        img_size: Side of a view in pixels, for views without labels.
        views: View indices, one per epoch, in a cycle; by default the archive's, or a new one each epoch.
        drop_last: Leave out the samples that do not fill a batch of all processes; without it, these must
            be enough for each process to have one.
        views_per_load: Views rendered each time an image is decoded; epochs have as many batches as with 1.
        rank: Number of this process; torch.distributed's by default, or 0 without it.
        world_size: Number of processes; torch.distributed's by default, or 1 without it.
        room: Bounded folder for copies of remote images and labels.
        key: File of public keys, one of which must have signed the labels; see docs/sharing.md.

    Attributes:
        dataset: Images and true labels.
        labels: Archive of labels, several, or None.
        recipe: Augmentation of the views.

    Raises:
        InputError: The dataset, archive, recipe or numbers do not fit together; see the message.
    """

    def __init__(
        self,
        data: str | Path | PackedDataset,
        labels: str | Path | Sequence[str | Path] | AnySource | None = None,
        *,
        batch_size: int,
        label_weights: Sequence[float] = (),
        seed: int = 0,
        recipe: str | Recipe | None = None,
        img_size: int | None = None,
        views: Iterable[int] | None = None,
        drop_last: bool = True,
        views_per_load: int = 1,
        rank: int | None = None,
        world_size: int | None = None,
        room: CacheRoom = DEFAULT_ROOM,
        key: str | Path | None = None,
    ) -> None:
        self.dataset = data if isinstance(data, PackedDataset) else PackedDataset(str(data), room)
        self.labels = _open(labels, room, label_weights, key)
        self.recipe = _recipe(self.labels, recipe, img_size)
        if views is None:
            views = range(_NEW_VIEWS) if self.labels is None else self.labels.views
        self._schedule = ViewSchedule(
            views if isinstance(views, range) else [operator.index(view) for view in views]
        )
        self._share = given_share(rank, world_size)
        rank, world_size = self._share or (0, 1)  # until an epoch begins
        self._plan = StreamPlan(
            len(self.dataset),
            self.dataset.info.samples_per_shard,
            operator.index(batch_size),
            seed=operator.index(seed),
            rank=rank,
            world_size=world_size,
            drop_last=drop_last,
            views_per_load=operator.index(views_per_load),
            shards=None if self.labels is None else self.labels.shards,
        )
        self._batches_done = self._resume_at = 0
        self._is_settled = False
        self._stream = self._new_stream()

    def __len__(self) -> int:
        """Return the number of batches in an epoch of this process."""
        return self._settled().batches_per_epoch

    @property
    def num_classes(self) -> int:
        """Number of classes of the dataset, or of the labels if the dataset does not name them."""
        named = len(self.dataset.info.classes)
        return named if named or self.labels is None else self.labels.spec.labels.num_classes

    @property
    def affinity(self) -> AnyAffinity:
        """Class affinity of the archive, for `soft_loss`; None without labels or if they name all classes."""
        return None if self.labels is None else self.labels.affinity

    @property
    def next_epoch(self) -> int:
        """Number of the epoch that holds the next batch."""
        return self._batches_done // len(self)

    def epoch(self, number: int, *, workers: int = 0, pin_memory: bool = False) -> Iterator[ViewBatch]:
        """Yield the batches of an epoch.

        After `load_state_dict` the interrupted epoch begins at the first batch not yet seen.

        Args:
            number: Number of the epoch, from 0.
            workers: Processes that render views; 0 renders in this process. They live as long as this object.
            pin_memory: Put batches into pinned memory, for copies to CUDA; without CUDA it does nothing.

        Raises:
            InputError: A number is negative, or this process's share is not known or empty.
            DatasetError, ImageError, ArchiveError: An image or a label is damaged; the message names it.
        """
        if number < 0 or workers < 0:
            raise InputError(f"epoch {number} with {workers} workers", "Both count from 0.", "give 0 or more")
        number, self._is_settled = operator.index(number), False
        self._settled()
        self._is_settled = True  # until the next epoch: the process group may be gone before a last state
        first, stop = number * len(self), (number + 1) * len(self)
        if first < self._resume_at < stop:
            first = self._resume_at
        self._resume_at = 0
        loader = self._stream.loader(workers, pin_memory=pin_memory, batches=range(first, stop))
        for batch_number, batch in enumerate(loader, first):
            self._batches_done = batch_number + 1
            yield batch

    def state_dict(self) -> State:
        """Return the position, and what it counts in: plain numbers and strings.

        A batch counts as soon as it is yielded, so take the state after the update that uses the batch.
        """
        return state_at(self._batches_done, self._settled(), self._identity)

    def load_state_dict(self, state: Mapping[str, int | str]) -> None:
        """Continue after the samples that `state_dict` counted, with any batch size and processes that fit.

        Raises:
            InputError: The state is of another dataset, other labels or another seed, or its position lies
                within a batch of this run.
        """
        self._batches_done = self._resume_at = batches_at(state, self._settled(), self._identity)

    def _settled(self) -> StreamPlan:
        """Return the plan of this process's share, as it is now; a position is converted to it.

        Raises:
            InputError: A launcher started several processes that do not know of each other, or the last
                batch of an epoch is too small for all of them.
        """
        if self._is_settled:
            return self._plan
        share, plan = self._share or share_of_process(), self._plan
        if share != (plan.rank, plan.world_size):
            changed = dataclasses.replace(plan, **share._asdict())
            self._batches_done, self._resume_at = [
                batches_at(state_at(batches, plan, {}), changed, {})
                for batches in (self._batches_done, self._resume_at)
            ]
            self._plan = changed
            self._stream.close()
            self._stream = self._new_stream()
        rest = self._plan.rows_per_pass % self._plan.global_batch_size
        if not self._plan.drop_last and 0 < rest < share.world_size:
            raise InputError(
                f"the last batch of an epoch has {rest} samples for {share.world_size} processes",
                "A process would have none, and the mean of its loss would not be a number.",
                "set drop_last=True, or choose another batch_size",
            )
        return self._plan

    def _new_stream(self) -> ViewStream:
        return ViewStream(
            self.dataset, self.recipe, self._plan, self._schedule, num_batches=0, archive=self.labels
        )

    @functools.cached_property
    def _identity(self) -> State:
        """Values that determine the order of samples and their labels."""
        found = () if self.labels is None else self.labels.fingerprint
        return {
            "dataset": self.dataset.info.sha256,
            "labels": found if isinstance(found, str) else " ".join(found),
            "shards": "all" if self._plan.shards is None else view_ranges(self._plan.shards),
            "seed": self._plan.seed or 0,
        }


def _open(
    labels: str | Path | Sequence[str | Path] | AnySource | None,
    room: CacheRoom,
    weights: Sequence[float],
    key: str | Path | None,
) -> AnySource | None:
    urls = [labels] if isinstance(labels, (str, Path)) else labels
    if isinstance(urls, Sequence) and urls:
        return open_any(LabelPlaces([str(url) for url in urls], room, weights, trust_of(key)))
    if key is not None:
        raise InputError(
            f"key {key} with labels that are open already"
            if urls is not None
            else f"key {key} without labels",
            "No signature would be checked.",
            "give the labels by their URL, or open them with open_labels(URL, key=...)",
        )
    if weights or urls == []:
        raise InputError(
            f"labels {labels!r} with label_weights {tuple(weights)}",
            "There is nothing to weigh." if weights else "It is not clear whether there is a teacher.",
            "give several URLs with their weights, or labels=None for views without labels",
        )
    return None if isinstance(urls, Sequence) else urls


def _recipe(labels: AnySource | None, recipe: str | Recipe | None, img_size: int | None) -> Recipe:
    if labels is not None:
        if recipe is not None or img_size is not None:
            raise InputError(
                f"recipe {recipe!r}, img_size {img_size}, with labels",
                "The archive brings the recipe and the size of the views that it labels.",
                "do not pass recipe and img_size",
            )
        return labels.recipe
    return recipe if isinstance(recipe, Recipe) else load_recipe(recipe or "deit", img_size)
