"""Shares of processes: asked when an epoch begins, none empty, each sample once also after a change."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from hypothesis import given, settings
from hypothesis import strategies as st

from student.ranks import joined
from teacher_cache import LabelledViews, PackedDataset, open_labels
from teacher_cache.errors import InputError
from teacher_cache.stream import labelled_views
from teacher_cache.stream.shares import Share

NUM_IMAGES, NUM_VIEWS = 33, 3


def seen(views: LabelledViews, epochs: range, workers: int = 0, stop: int | None = None) -> Counter:
    """Return how often each (epoch, row, view) is seen; `stop` ends after that many batches."""
    found: Counter = Counter()
    left = stop if stop is not None else 10**9
    for epoch in epochs:
        for batch in views.epoch(epoch, workers=workers) if left else ():
            found.update(zip([epoch] * 99, batch.rows_B.tolist(), batch.views_B.tolist(), strict=False))
            left -= 1
            if not left:
                break
    return found


def worker(rank: int, views: LabelledViews, folder: str) -> None:
    early = LabelledViews(views.dataset.url, labels=views.labels.url, batch_size=5)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    both = [sorted(seen(each, range(2))) for each in (views, early)]
    Path(folder, f"{rank}.json").write_text(json.dumps([both, len(views)]))
    dist.destroy_process_group()


@pytest.mark.slow
def test_views_made_before_processes_meet_are_shared_out_among_them(
    data: str, labels: str, tmp_path: Path
) -> None:
    """Made in the parent and sent by spawn, or made in each process before init_process_group."""
    views = LabelledViews(data, labels=labels, batch_size=5)
    torch.multiprocessing.spawn(worker, (views, str(tmp_path)), nprocs=2)
    (first, length), (second, _) = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert length == NUM_IMAGES // 10
    for one, other in zip(first, second, strict=True):
        together = Counter(map(tuple, [*one, *other]))
        assert set(together.values()) == {1}
        assert Counter(epoch for epoch, _, _ in together) == {0: 30, 1: 30}
        assert all(view == epoch for epoch, _, view in together)


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(
    sizes=st.tuples(*[st.sampled_from([(1, 1), (3, 1), (11, 1), (4, 2), (2, 3), (16, 2)])] * 2),
    workers=st.tuples(*[st.sampled_from([0, 0, 2])] * 2),
    stop=st.integers(0, 40),
)
def test_stopped_and_resumed_with_others_each_view_is_seen_once_or_it_is_refused(
    sizes: tuple, workers: tuple, stop: int, data: str, labels: str
) -> None:
    def of(size: tuple[int, int]) -> list[LabelledViews]:
        return [
            LabelledViews(data, labels=labels, batch_size=size[0], rank=rank, world_size=size[1])
            for rank in range(size[1])
        ]

    epochs = range(NUM_VIEWS)
    before, after = of(sizes[0]), of(sizes[1])
    stop = min(stop, NUM_VIEWS * len(before[0]))
    found = sum((seen(views, epochs, workers[0], stop) for views in before), Counter())
    states = [json.loads(json.dumps(views.state_dict())) for views in before]
    assert all(state == states[0] for state in states)
    if states[0]["samples"] % (sizes[1][0] * sizes[1][1]):
        with pytest.raises(InputError, match="lies within a batch"):
            after[0].load_state_dict(states[0])
        return
    for views in after:
        views.load_state_dict(states[0])
        found += seen(views, range(views.next_epoch, NUM_VIEWS), workers[1])
    assert set(found.values()) == {1}
    assert all(view == epoch for epoch, _, view in found)
    most_left_out = max(batch_size * world_size for batch_size, world_size in sizes)
    for epoch in epochs:
        assert NUM_IMAGES - sum(of_epoch == epoch for of_epoch, _, _ in found) < most_left_out


def test_a_process_without_a_sample_of_the_last_batch_is_refused(data: str, labels: str) -> None:
    options = {"labels": labels, "batch_size": 16, "drop_last": False}
    views = LabelledViews(data, **options, rank=0, world_size=2)  # 33 = 32 + 1, for two processes
    with pytest.raises(InputError, match=r"1 samples for 2 processes(.|\n)*drop_last=True"):
        next(views.epoch(0))
    assert len(list(LabelledViews(data, **options, rank=0, world_size=1).epoch(0))) == 3
    fits = LabelledViews(data, **{**options, "batch_size": 5}, rank=1, world_size=2)  # 33 = 30 + 3
    assert [len(batch.rows_B) for batch in fits.epoch(0)] == [5, 5, 5, 2]


def test_a_share_that_changes_converts_the_position_or_refuses_and_stays_in_an_epoch(
    data: str, labels: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = Share(0, 1)
    monkeypatch.setattr(labelled_views, "share_of_process", lambda: share)
    views = LabelledViews(data, labels=labels, batch_size=4)
    seen(views, range(1), stop=3)
    share = Share(1, 2)
    assert views.state_dict()["batches"] == 3  # of the epoch that has begun
    for _ in range(2):
        with pytest.raises(InputError, match="lies within a batch"):
            next(views.epoch(0))
    share = Share(0, 1)
    assert [len(batch.rows_B) for batch in views.epoch(1)] == [4] * 8
    share = Share(1, 2)
    assert len(list(views.epoch(2))) == 4
    assert views.next_epoch == 3


def test_paths_and_numbers_of_any_kind_are_taken(data: str, labels: str) -> None:
    views = LabelledViews(
        Path(data), labels=[Path(labels)], batch_size=np.int64(8), seed=np.int32(0), views=np.arange(3)
    )
    plain = LabelledViews(data, labels=labels, batch_size=8)
    assert json.dumps(views.state_dict()) == json.dumps(plain.state_dict())
    pairs = zip(views.epoch(np.int64(1), pin_memory=True), plain.epoch(1), strict=True)
    assert all(torch.equal(one.images_RCHW, other.images_RCHW) for one, other in pairs)
    assert open_labels(Path(labels)).views == [0, 1, 2]
    assert len(PackedDataset(Path(data))) == NUM_IMAGES


@pytest.mark.parametrize("wrong", [{"number": -1}, {"number": 0, "workers": -1}])
def test_negative_numbers_are_refused(wrong: dict[str, int], data: str, labels: str) -> None:
    with pytest.raises(InputError, match="Both count from 0"):
        next(LabelledViews(data, labels=labels, batch_size=8).epoch(**wrong))


def test_a_training_that_srun_starts_without_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with pytest.raises(InputError, match=r"run of its own(.|\n)*torchrun"), joined("cpu"):
        pass
