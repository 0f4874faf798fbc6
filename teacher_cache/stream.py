"""The stream: batches of views with their labels, as a torch dataset, for any trainer.

A plan in integers says which rows make batch number n of the whole run, for one rank; workers carry it out.
Worker w of W makes batches w, w + W, ..., and DataLoader hands them out in turn, so the order is the same
for any number of workers, and resuming is starting at another n.

    plan = StreamPlan(len(dataset), dataset.info.samples_per_shard, batch_size=256, seed=0)
    stream = ViewStream(
        dataset, archive.recipe, plan, ViewSchedule(archive.views), num_batches=1000, archive=archive
    )
    for batch in stream.loader(workers=8): ...

Shapes: B views, K classes kept, H = W = the recipe's img_size.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from teacher_cache.archive.read import ArchiveReader, view_ranges
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import ArchiveError, InputError
from teacher_cache.keys import Purpose, Stream, permutation
from teacher_cache.labels.topk import Labels
from teacher_cache.views.recipe import Recipe
from teacher_cache.views.render import render_views


class ViewBatch(NamedTuple):
    """B views of B samples.

    Attributes:
        images_BCHW: uint8 RGB.
        targets_B: int64, the dataset's own labels.
        labels: The teacher's, or None without an archive.
        rows_B: int64, the samples' rows; `PackedDataset.index.key(row)` is a row's key.
        view: The view index they are rendered at.
    """

    images_BCHW: torch.Tensor
    targets_B: torch.Tensor
    labels: Labels | None
    rows_B: torch.Tensor
    view: int


@dataclasses.dataclass(frozen=True)
class ViewSchedule:
    """Which view each epoch sees: each epoch the next of `views`, then again from the first."""

    views: Sequence[int] = (0,)

    def __post_init__(self) -> None:
        if not self.views or min(self.views) < 0:
            raise InputError(
                f"views {list(self.views)}", "They hold no view.", "give at least one, from 0 up"
            )

    def view(self, epoch: int) -> int:
        """Return the view index of an epoch."""
        return self.views[epoch % len(self.views)]


@dataclasses.dataclass(frozen=True)
class StreamPlan:
    """Which rows make which batch, in integers.

    An epoch's order: shards in a seeded order, taken `window_shards` at a time, and the rows of each window
    in a seeded order. So a worker reads few shards at once, and the order is a pure function of its seed.

    Attributes:
        num_rows: Samples of the dataset.
        rows_per_shard: Samples in every shard but the last.
        batch_size: Views in a batch of one rank.
        seed: Of the order; None keeps the rows in order.
        window_shards: Shards that are shuffled together.
        rank: This process, of `world_size`. A batch of all ranks is cut into equal neighbours.
        world_size: Processes.
        drop_last: Leave out the samples that do not fill a batch of all ranks; else the last one is smaller.
    """

    num_rows: int
    rows_per_shard: int
    batch_size: int
    seed: int | None = None
    window_shards: int = 16
    rank: int = 0
    world_size: int = 1
    drop_last: bool = False

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.window_shards < 1:
            raise InputError(
                f"batch size {self.batch_size}, window {self.window_shards}", "Both must be 1 or more."
            )
        if not 0 <= self.rank < self.world_size:
            raise InputError(f"rank {self.rank} of {self.world_size}", "Ranks count from 0.")
        if self.batches_per_epoch == 0:
            raise InputError(
                f"batch size {self.batch_size} on {self.world_size} ranks, with {self.num_rows} samples",
                "An epoch would have no batch.",
                "choose a smaller --batch-size",
            )

    @property
    def global_batch_size(self) -> int:
        """Views in a batch of all ranks together."""
        return self.batch_size * self.world_size

    @property
    def batches_per_epoch(self) -> int:
        """Batches in an epoch, the same for every rank."""
        full, rest = divmod(self.num_rows, self.global_batch_size)
        return full if self.drop_last or not rest else full + 1

    def rows(self, batch: int) -> npt.NDArray[np.int64]:
        """Return the rows of batch number `batch` of the run, for this rank."""
        epoch, place = divmod(batch, self.batches_per_epoch)
        start = place * self.global_batch_size
        rows = self._epoch_rows(epoch, start, min(start + self.global_batch_size, self.num_rows))
        first, stop = (len(rows) * rank // self.world_size for rank in (self.rank, self.rank + 1))
        return rows[first:stop]

    def _epoch_rows(self, epoch: int, start: int, stop: int) -> npt.NDArray[np.int64]:
        """Return places [start, stop) of an epoch's order of all rows."""
        if self.seed is None:
            return np.arange(start, stop)
        bounds = _window_bounds(self, epoch)
        first, last = np.searchsorted(bounds, (start, stop - 1), side="right") - 1
        windows = [_window_rows(self, epoch, window) for window in range(first, last + 1)]
        return np.concatenate(windows)[start - bounds[first] : stop - bounds[first]]


@functools.lru_cache(maxsize=4)
def _shard_windows(plan: StreamPlan, epoch: int) -> list[npt.NDArray[np.int64]]:
    num_shards = -(-plan.num_rows // plan.rows_per_shard)
    shards = permutation(num_shards, Stream((plan.seed or 0, epoch), Purpose.ORDER))
    return [shards[start : start + plan.window_shards] for start in range(0, num_shards, plan.window_shards)]


@functools.lru_cache(maxsize=4)
def _window_bounds(plan: StreamPlan, epoch: int) -> npt.NDArray[np.int64]:
    sizes = [sum(len(_shard_rows(plan, shard)) for shard in window) for window in _shard_windows(plan, epoch)]
    return np.cumsum([0, *sizes])


@functools.lru_cache(maxsize=4)
def _window_rows(plan: StreamPlan, epoch: int, window: int) -> npt.NDArray[np.int64]:
    rows = np.concatenate([_shard_rows(plan, shard) for shard in _shard_windows(plan, epoch)[window]])
    return rows[permutation(len(rows), Stream((plan.seed or 0, epoch), Purpose.ORDER, (1, window)))]


def _shard_rows(plan: StreamPlan, shard: int) -> npt.NDArray[np.int64]:
    start = shard * plan.rows_per_shard
    return np.arange(start, min(start + plan.rows_per_shard, plan.num_rows))


class ViewStream(IterableDataset[ViewBatch]):
    """Batches of views, in an order that is the same for any number of workers.

    Args:
        dataset: The images.
        recipe: How views are rendered.
        plan: Which rows make which batch.
        schedule: Which view each epoch sees.
        num_batches: Length of the whole run for this rank, over all epochs.
        first_batch: Where to start: a run that was stopped goes on with the batch it did not see.
        archive: The teacher's labels, or None to yield none. The recipe must be the archive's.

    Raises:
        ArchiveError: The archive does not belong to the dataset, or lacks a view of the schedule.
        RecipeError: The recipe is not the archive's, or its pixels differ on this machine.
    """

    def __init__(
        self,
        dataset: PackedDataset,
        recipe: Recipe,
        plan: StreamPlan,
        schedule: ViewSchedule,
        *,
        num_batches: int,
        first_batch: int = 0,
        archive: ArchiveReader | None = None,
    ) -> None:
        self._dataset, self._recipe, self._plan, self._schedule = dataset, recipe, plan, schedule
        self._batches = range(first_batch, num_batches)
        self._archive = archive
        if archive is not None:
            _check_archive(archive, dataset, recipe, schedule)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[ViewBatch]:
        worker = get_worker_info()
        first, step = (worker.id, worker.num_workers) if worker else (0, 1)
        cached = functools.lru_cache(maxsize=2 * self._plan.window_shards)
        labels_of = cached(self._archive.labels) if self._archive else None
        for number in self._batches[first::step]:
            rows_B = self._plan.rows(number)
            view = self._schedule.view(number // self._plan.batches_per_epoch)
            yield ViewBatch(
                images_BCHW=self._render(rows_B, view),
                targets_B=torch.from_numpy(self._dataset.index.labels_N[rows_B].astype(np.int64)),
                labels=self._join(labels_of, rows_B, view) if labels_of else None,
                rows_B=torch.from_numpy(rows_B),
                view=view,
            )

    def loader(self, workers: int, *, pin_memory: bool = False) -> DataLoader[ViewBatch]:
        """Return the DataLoader to iterate: `workers` processes, batches already whole."""
        return DataLoader(
            self,
            batch_size=None,
            num_workers=workers,
            pin_memory=pin_memory,
            prefetch_factor=4 if workers else None,
        )

    def _render(self, rows_B: npt.NDArray[np.int64], view: int) -> torch.Tensor:
        size = self._recipe.img_size
        images_BCHW = torch.empty(len(rows_B), 3, size, size, dtype=torch.uint8)
        for row, out_CHW in zip(rows_B.tolist(), images_BCHW, strict=True):
            key = self._dataset.index.key(row)
            render_views(self._dataset.image_bytes(row), self._recipe, key, (view,), out_CHW[None])
        return images_BCHW

    def _join(
        self, labels_of: Callable[[int, int], Labels], rows_B: npt.NDArray[np.int64], view: int
    ) -> Labels:
        """Gather the labels of rows, reading each of their shards' labels of this view once."""
        if not len(rows_B):  # a rank's share of a last batch smaller than the number of ranks
            return Labels(*(tensor[:0] for tensor in labels_of(0, view)))
        shards_B, places_B = np.divmod(rows_B, self._plan.rows_per_shard)
        shards, order_B = np.unique(shards_B, return_inverse=True)
        parts = []
        for number, shard in enumerate(shards.tolist()):
            (members,) = np.nonzero(order_B == number)
            of_shard = labels_of(shard, view)
            parts.append((members, Labels(*(tensor[places_B[members]] for tensor in of_shard))))
        back_B = np.argsort(np.concatenate([members for members, _ in parts]))
        together = zip(*(labels for _, labels in parts), strict=True)
        return Labels(*(torch.cat(tensors)[back_B] for tensors in together))


def _check_archive(
    archive: ArchiveReader, dataset: PackedDataset, recipe: Recipe, schedule: ViewSchedule
) -> None:
    if recipe.sha256 != archive.recipe.sha256:
        raise ArchiveError(
            f"archive {archive.url} labels views of recipe {archive.recipe.name!r} at "
            f"{archive.recipe.img_size} px, not of {recipe.name!r} at {recipe.img_size} px",
            "A student would see other views than the teacher labelled.",
            "leave --recipe and --img-size out: the archive brings its own",
        )
    archive.check_replay(dataset.info)
    missing = sorted(set(schedule.views) - set(archive.views))
    if missing:
        raise ArchiveError(
            f"archive {archive.url} holds views {view_ranges(archive.views)}, not {view_ranges(missing)}",
            "The run would stop at the first view without labels.",
            "extract more views, or ask for fewer with --views",
        )
