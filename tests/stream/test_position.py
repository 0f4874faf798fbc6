"""A saved position goes on with other batch sizes and processes, each sample once, or is refused."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from teacher_cache.errors import InputError
from teacher_cache.stream.plan import StreamPlan
from teacher_cache.stream.position import batches_at, state_at

IDENTITY = {"dataset": "d", "labels": "l", "seed": 7}
NUM_ROWS, EPOCHS = 48, 4


def plan_of(batch_size: int = 4, world_size: int = 1, **changes: object) -> StreamPlan:
    counts = {"batch_size": batch_size, "world_size": world_size, "drop_last": True}
    return StreamPlan(**{"num_rows": NUM_ROWS, "rows_per_shard": 10, "seed": 7, **counts, **changes})


def rows_seen(plan: StreamPlan, first: int, stop: int) -> list[tuple[int, int]]:
    """Return (epoch, row) of the samples of all processes in batches first to stop."""
    ranks = [dataclasses.replace(plan, rank=rank) for rank in range(plan.world_size)]
    return [
        (batch // plan.batches_per_epoch, row)
        for batch in range(first, stop)
        for rank in ranks
        for row in rank.rows(batch).rows_B.tolist()
    ]


plans = st.builds(
    plan_of, st.integers(1, 12), st.integers(1, 4), num_rows=st.integers(48, 60), drop_last=st.booleans()
)


@given(was=plans, stop=st.integers(0, 200), batch_size=st.integers(1, 12), world_size=st.integers(1, 4))
def test_each_sample_of_an_epoch_is_seen_once_or_the_position_is_refused(
    was: StreamPlan, stop: int, batch_size: int, world_size: int
) -> None:
    stop = min(stop, EPOCHS * was.batches_per_epoch)
    now = dataclasses.replace(was, batch_size=batch_size, world_size=world_size)
    state = state_at(stop, was, IDENTITY)
    if state["samples"] % now.global_batch_size:
        with pytest.raises(InputError, match="lies within a batch"):
            batches_at(state, now, IDENTITY)
        return
    first = batches_at(state, now, IDENTITY)
    seen = Counter(rows_seen(was, 0, stop) + rows_seen(now, first, EPOCHS * now.batches_per_epoch))
    assert set(seen.values()) == {1}
    for epoch in range(EPOCHS):
        left_out = was.num_rows - sum(1 for of, _ in seen if of == epoch)
        assert left_out < max(was.global_batch_size, now.global_batch_size)
        assert left_out == 0 or was.drop_last


@pytest.mark.parametrize(
    ("batch_size", "world_size", "batch"),
    [(4, 1, 15), (12, 1, 5), (2, 1, 30), (2, 2, 15), (1, 4, 15), (6, 2, 5)],
)
def test_the_batches_behind_fifteen_of_four(batch_size: int, world_size: int, batch: int) -> None:
    state = state_at(15, plan_of(4), IDENTITY)
    assert (state["epoch"], state["samples"]) == (1, 12)
    assert batches_at(state, plan_of(batch_size, world_size), IDENTITY) == batch


@pytest.mark.parametrize(("batch_size", "world_size"), [(8, 1), (4, 2), (5, 1)])
def test_a_position_within_a_batch_is_refused_with_both_counts(batch_size: int, world_size: int) -> None:
    state = state_at(15, plan_of(4), IDENTITY)
    with pytest.raises(InputError) as refused:
        batches_at(state, plan_of(batch_size, world_size), IDENTITY)
    assert "12 samples into epoch 1, counted in batches of 4 in 1 processes" in str(refused.value)
    assert f"batches of {batch_size} in {world_size}" in str(refused.value)


def test_views_that_are_rendered_together_go_on_only_between_passes() -> None:
    was = plan_of(4, views_per_load=2)
    now = plan_of(8, views_per_load=2)
    assert batches_at(state_at(24, was, IDENTITY), now, IDENTITY) == 12
    for batches in (4, 12):
        with pytest.raises(InputError, match="rendered together"):
            batches_at(state_at(batches, was, IDENTITY), now, IDENTITY)
        assert batches_at(state_at(batches, was, IDENTITY), was, IDENTITY) == batches


@pytest.mark.parametrize("name", IDENTITY)
def test_a_position_of_another_run_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"another run: {name}: other then"):
        batches_at({**state_at(3, plan_of(), IDENTITY), name: "other"}, plan_of(), IDENTITY)


def test_another_number_of_views_per_load_is_refused() -> None:
    with pytest.raises(InputError, match="views_per_load: 2 then, 1 now"):
        batches_at(state_at(24, plan_of(views_per_load=2), IDENTITY), plan_of(), IDENTITY)


@pytest.mark.parametrize(
    "state", [{}, {"batches": -3}, {"batches": 1.5}, {"batches": True}, {"batches": "1"}]
)
def test_what_is_no_position_is_refused(state: dict) -> None:
    with pytest.raises(InputError, match="the saved position has batches"):
        batches_at(state, plan_of(), IDENTITY)


def test_a_state_of_batches_alone_is_taken_as_it_is() -> None:
    assert batches_at({"batches": 15}, plan_of(8), IDENTITY) == 15
