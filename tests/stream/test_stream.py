from collections.abc import Iterable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import IMG_SIZE, SHARD_SIZE

from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.batches.batch import ViewBatch
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import ArchiveError, InputError
from teacher_cache.stream.plan import StreamPlan, ViewSchedule
from teacher_cache.stream.stream import ViewStream
from teacher_cache.views.recipe import deit
from teacher_cache.views.render import render_views

SCHEDULE = ViewSchedule(range(3))
Sample = tuple[str, int, bytes, int, tuple]


def plan_of(dataset: PackedDataset, **changes: object) -> StreamPlan:
    settings = {"batch_size": 5, "seed": 7, "window_shards": 2, **changes}
    return StreamPlan(len(dataset), SHARD_SIZE, **settings)


def stream_of(
    dataset: PackedDataset, labels: str, plan: StreamPlan, epochs: int = 1, first_batch: int = 0
) -> ViewStream:
    archive = ArchiveReader(labels)
    num_batches = epochs * plan.batches_per_epoch
    return ViewStream(
        dataset,
        archive.recipe,
        plan,
        SCHEDULE,
        num_batches=num_batches,
        first_batch=first_batch,
        archive=archive,
    )


def rows_of(plan: StreamPlan, batch: int) -> list[int]:
    return plan.rows(batch).rows_B.tolist()


def samples_of(dataset: PackedDataset, batches: Iterable[ViewBatch]) -> list[Sample]:
    """Return (key, view, pixels, target, label) of every sample, in order."""
    found = []
    for batch in batches:
        assert batch.labels is not None
        for place, row in enumerate(batch.rows_B.tolist()):
            label = tuple(tensor[place].tolist() for tensor in batch.labels)
            pixels = batch.images_RCHW[place].numpy().tobytes()
            view, target = int(batch.views_B[place]), int(batch.targets.own_B[place])
            found.append((dataset.index.key(row), view, pixels, target, str(label)))
    return found


def test_each_sample_is_the_view_and_label_of_its_key(dataset: PackedDataset, labels: str) -> None:
    archive = ArchiveReader(labels)
    out = np.empty((1, IMG_SIZE, IMG_SIZE, 3), np.uint8)
    plan = plan_of(dataset)
    for number, batch in enumerate(stream_of(dataset, labels, plan, epochs=3).loader(0)):
        view = number // plan.batches_per_epoch
        assert batch.views_B.tolist() == [view] * len(batch.rows_B)
        for place, row in enumerate(batch.rows_B.tolist()):
            render_views(dataset.image_bytes(row), archive.recipe, dataset.index.key(row), [view], out)
            assert np.array_equal(batch.images_RCHW[place].permute(1, 2, 0), out[0])
            assert batch.targets.own_B[place] == dataset.index.labels_N[row]
            expected = archive.labels(row // SHARD_SIZE, view)
            for found, wanted in zip(batch.labels, expected, strict=True):
                assert torch.equal(found[place], wanted[row % SHARD_SIZE])


@pytest.mark.parametrize("workers", [1, 4])
def test_the_order_is_the_same_for_any_number_of_workers(
    dataset: PackedDataset, labels: str, workers: int
) -> None:
    stream = stream_of(dataset, labels, plan_of(dataset), epochs=2)
    alone = samples_of(dataset, stream.loader(0))
    assert samples_of(dataset, stream.loader(workers)) == alone


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_partition_every_epoch(
    dataset: PackedDataset, labels: str, world_size: int, drop_last: bool
) -> None:
    per_rank = [
        samples_of(
            dataset,
            stream_of(
                dataset, labels, plan_of(dataset, rank=r, world_size=world_size, drop_last=drop_last)
            ).loader(0),
        )
        for r in range(world_size)
    ]
    together = sorted(sample for samples in per_rank for sample in samples)
    whole = sorted(samples_of(dataset, stream_of(dataset, labels, plan_of(dataset)).loader(0)))
    if drop_last:
        size = 5 * world_size
        assert len(together) == len(dataset) // size * size
        assert set(together) <= set(whole)
        assert len(set(together)) == len(together)
    else:
        assert together == whole


@pytest.mark.parametrize("workers", [0, 1])
def test_a_rank_without_a_row_of_the_last_batch_gets_an_empty_one(
    workers: int, dataset: PackedDataset, labels: str
) -> None:
    plans = [plan_of(dataset, batch_size=16, rank=rank, world_size=2) for rank in range(2)]
    last = [list(stream_of(dataset, labels, plan).loader(workers))[-1] for plan in plans]
    assert [len(batch.targets.own_B) for batch in last] == [0, 1]
    assert [batch.labels.class_ids_BK.shape[0] for batch in last] == [0, 1]


def test_ranks_share_each_batch_of_one_larger_rank(dataset: PackedDataset) -> None:
    one = plan_of(dataset, batch_size=6)
    two = [plan_of(dataset, batch_size=3, rank=rank, world_size=2) for rank in range(2)]
    for batch in range(one.batches_per_epoch):
        assert np.concatenate([rows_of(plan, batch) for plan in two]).tolist() == rows_of(one, batch)


@given(
    st.integers(1, 4), st.sampled_from([1, 2, 3, 4, 6, 12]), st.sampled_from([1, 2, 3]), st.integers(0, 50)
)
def test_an_update_holds_the_same_rows_however_it_is_shared(
    size: int, ways: int, ranks: int, update: int
) -> None:
    """Among ranks, and among the batches that a rank makes it of: epochs end at the same rows too."""
    parts = ways if ways % ranks else ways // ranks
    whole = StreamPlan(101, 8, size * ranks * parts, seed=3, drop_last=True)
    shared = [
        StreamPlan(
            101, 8, size, seed=3, drop_last=True, rank=rank, world_size=ranks, batches_per_update=parts
        )
        for rank in range(ranks)
    ]
    found = [
        shared[rank].rows(update * parts + part).rows_B for part in range(parts) for rank in range(ranks)
    ]
    assert {len(rows) for rows in found} == {size}
    assert np.concatenate(found).tolist() == whole.rows(update).rows_B.tolist()
    assert shared[0].batches_per_epoch == whole.batches_per_epoch * parts


def test_a_run_goes_on_where_it_stopped(dataset: PackedDataset, labels: str) -> None:
    plan = plan_of(dataset)
    whole = samples_of(dataset, stream_of(dataset, labels, plan, epochs=2).loader(0))
    rest = samples_of(dataset, stream_of(dataset, labels, plan, epochs=2, first_batch=9).loader(2))
    assert rest == whole[-len(rest) :]
    assert len(rest) == len(whole) - len(dataset) - 2 * 5


@given(
    num_rows=st.integers(1, 200),
    rows_per_shard=st.integers(1, 40),
    batch_size=st.integers(1, 50),
    world_size=st.integers(1, 4),
    window_shards=st.integers(1, 6),
    seed=st.none() | st.integers(0, 99),
    epoch=st.integers(0, 3),
)
def test_an_epoch_holds_each_row_once(
    num_rows: int,
    rows_per_shard: int,
    batch_size: int,
    world_size: int,
    window_shards: int,
    seed: int | None,
    epoch: int,
) -> None:
    rows = []
    for rank in range(world_size):
        plan = StreamPlan(num_rows, rows_per_shard, batch_size, seed, window_shards, rank, world_size)
        first = epoch * plan.batches_per_epoch
        rows += [plan.rows(batch).rows_B for batch in range(first, first + plan.batches_per_epoch)]
    assert sorted(np.concatenate(rows).tolist()) == list(range(num_rows))


def test_the_order_is_pinned() -> None:
    plan = StreamPlan(num_rows=10, rows_per_shard=3, batch_size=10, seed=1, window_shards=2)
    assert rows_of(plan, 0) == [3, 4, 7, 5, 8, 6, 9, 0, 2, 1]
    assert rows_of(plan, 1) == [8, 6, 3, 5, 4, 7, 2, 0, 9, 1]


def test_every_epoch_and_seed_has_an_order_of_its_own() -> None:
    plans = [StreamPlan(100, 10, 100, seed=seed, window_shards=4) for seed in range(3)]
    orders = {tuple(rows_of(plan, epoch)) for plan in plans for epoch in range(3)}
    assert len(orders) == 9


def test_without_a_seed_rows_come_in_order() -> None:
    plan = StreamPlan(10, 3, 4)
    assert [row for batch in range(3) for row in rows_of(plan, batch)] == list(range(10))


def test_a_window_is_read_before_the_next() -> None:
    plan = StreamPlan(num_rows=100, rows_per_shard=10, batch_size=30, seed=0, window_shards=3)
    shards = [{row // 10 for row in rows_of(plan, batch)} for batch in range(3)]
    assert all(len(window) == 3 for window in shards)
    assert shards[0].isdisjoint(shards[1])


def test_labels_are_read_once_per_unit_and_view(
    dataset: PackedDataset, labels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []
    original = ArchiveReader.stored
    monkeypatch.setattr(
        ArchiveReader, "stored", lambda self, *place: (reads.append(place), original(self, *place))[1]
    )
    list(stream_of(dataset, labels, plan_of(dataset), epochs=3).loader(0))
    assert sorted(reads) == [(shard, view) for shard in range(5) for view in range(3)]


def test_views_that_are_not_labelled_are_said_before_the_first_batch(
    dataset: PackedDataset, labels: str
) -> None:
    archive = ArchiveReader(labels)
    with pytest.raises(ArchiveError, match="holds views 0:3, not 3:5"):
        ViewStream(
            dataset, archive.recipe, plan_of(dataset), ViewSchedule(range(5)), num_batches=1, archive=archive
        )


def test_views_of_another_recipe_are_refused(dataset: PackedDataset, labels: str) -> None:
    with pytest.raises(ArchiveError, match="recipe 'deit' at 32 px, not of 'deit' at 48 px"):
        ViewStream(
            dataset, deit(48), plan_of(dataset), SCHEDULE, num_batches=1, archive=ArchiveReader(labels)
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch size 0"),
        ({"rank": 2, "world_size": 2}, "rank 2 of 2"),
        ({"batch_size": 34, "drop_last": True}, "An epoch would have no batch"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(changes: dict, message: str, dataset: PackedDataset) -> None:
    with pytest.raises(InputError, match=message):
        plan_of(dataset, **changes)


def test_a_plan_of_another_dataset_is_refused(dataset: PackedDataset, labels: str) -> None:
    for plan in (StreamPlan(len(dataset), SHARD_SIZE + 1, 5), StreamPlan(len(dataset) - 1, SHARD_SIZE, 5)):
        with pytest.raises(InputError, match="a plan of"):
            stream_of(dataset, labels, plan)


def test_more_views_a_load_than_there_are_is_refused(dataset: PackedDataset, labels: str) -> None:
    plan = plan_of(dataset, views_per_load=4, drop_last=True)
    with pytest.raises(InputError, match="4 views per load, of 3 views"):
        stream_of(dataset, labels, plan)


@pytest.mark.parametrize("together", [False, True])
def test_several_views_a_load_have_their_own_labels_each_read_once_and_resume(
    dataset: PackedDataset, labels: str, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(dataset, batch_size=6, drop_last=True, views_per_load=3, views_together=together)
    expected = {
        sample[:2]: sample[2:]
        for sample in samples_of(dataset, stream_of(dataset, labels, plan_of(dataset), epochs=3).loader(0))
    }
    reads = []
    original = ArchiveReader.stored
    monkeypatch.setattr(
        ArchiveReader, "stored", lambda self, *place: (reads.append(place), original(self, *place))[1]
    )
    whole = samples_of(dataset, stream_of(dataset, labels, plan, epochs=3).loader(0))
    assert len({sample[:2] for sample in whole}) == len(whole) == 3 * 30
    assert all(expected[sample[:2]] == sample[2:] for sample in whole)
    assert len(reads) == len(set(reads))
    rest = samples_of(dataset, stream_of(dataset, labels, plan, epochs=3, first_batch=4).loader(2))
    assert rest == whole[4 * 6 :]


def test_a_schedule_goes_round() -> None:
    assert [ViewSchedule((2, 3, 7)).view(epoch) for epoch in range(7)] == [2, 3, 7, 2, 3, 7, 2]
    with pytest.raises(InputError, match="They hold no view"):
        ViewSchedule(range(2, 2))
