"""Plan of a run before the first step: batches, updates, learning rate, views."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from student.config import TrainConfig
from teacher_cache.program.flags import parse_views
from teacher_cache.stream.plan import StreamPlan, ViewSchedule


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """Plan of a run.

    Attributes:
        stream: Rows of each batch of this process.
        schedule: View of each epoch.
        peak_lr: Learning rate after warm-up.
    """

    stream: StreamPlan
    schedule: ViewSchedule
    num_updates: int
    peak_lr: float
    warmup_updates: int

    @property
    def num_batches(self) -> int:
        """Number of batches of this process, over all epochs."""
        return self.num_updates * self.stream.batches_per_update

    @property
    def effective_batch(self) -> int:
        """Number of views in one update, in all processes together."""
        return self.stream.global_batch_size

    @property
    def epochs(self) -> float:
        """Number of passes over the dataset."""
        return self.num_batches / self.stream.batches_per_epoch

    def epoch(self, update: int) -> int:
        """Return the epoch in which an update begins."""
        return update * self.stream.batches_per_update // self.stream.batches_per_epoch

    @property
    def views_used(self) -> int:
        """Number of different views of each image that the run sees."""
        return min(len(set(self.schedule.views)), -(-self.num_batches // self.stream.batches_per_epoch))


def plan_run(
    config: TrainConfig,
    *,
    num_rows: int,
    rows_per_shard: int,
    archive_views: Sequence[int] | None,
    archive_shards: tuple[int, ...] | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> RunPlan:
    """Plan a run.

    Args:
        rows_per_shard: Samples in every shard but the last.
        archive_views: Labelled views, or None without an archive.
        archive_shards: Labelled image shards, or None if all are labelled, or without an archive.
        rank: Number of this process, from 0.

    Raises:
        InputError: The flags for batches do not fit each other or the dataset; see StreamPlan.
    """
    stream = StreamPlan(
        num_rows=num_rows,
        rows_per_shard=rows_per_shard,
        batch_size=config.batch_size,
        seed=config.seed,
        window_shards=config.window_shards,
        rank=rank,
        world_size=world_size,
        drop_last=True,
        views_per_load=config.views_per_load,
        views_together=config.views_together,
        batches_per_update=config.grad_accum_steps,
        shards=archive_shards,
    )
    updates_per_epoch = stream.batches_per_epoch // stream.batches_per_update
    num_updates = config.steps or config.epochs * updates_per_epoch
    passes = -(-num_updates // (updates_per_epoch * config.views_per_load))
    warmup_updates = round(config.warmup_epochs * updates_per_epoch)
    return RunPlan(
        stream=stream,
        schedule=_schedule(config, archive_views, passes * config.views_per_load),
        num_updates=num_updates,
        peak_lr=config.lr_base * stream.global_batch_size / 512 if config.lr is None else config.lr,
        warmup_updates=min(warmup_updates, num_updates // 5),
    )


def _schedule(config: TrainConfig, archive_views: Sequence[int] | None, num_epochs: int) -> ViewSchedule:
    if config.views is not None:
        return ViewSchedule(parse_views(config.views))
    return ViewSchedule(range(num_epochs) if archive_views is None else archive_views)
