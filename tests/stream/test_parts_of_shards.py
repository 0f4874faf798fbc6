"""Plans that stream some shards alone: their rows, each once an epoch, for all ranks together."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teacher_cache.errors import InputError
from teacher_cache.stream.plan import StreamPlan


@given(
    num_rows=st.integers(20, 60),
    chosen=st.sets(st.integers(0, 4), min_size=1, max_size=4),
    seed=st.one_of(st.none(), st.integers(0, 9)),
    world_size=st.integers(1, 2),
)
def test_an_epoch_holds_each_row_of_the_shards_once(
    num_rows: int, chosen: set[int], seed: int | None, world_size: int
) -> None:
    shards = tuple(sorted(chosen))
    rows = [row for row in range(num_rows) if row // 12 in chosen]
    if not rows:
        return
    plans = [
        StreamPlan(num_rows, 12, 2, seed, window_shards=2, rank=rank, world_size=world_size, shards=shards)
        for rank in range(world_size)
        if all(shard * 12 < num_rows for shard in shards)
    ]
    for epoch in range(2 if plans else 0):
        size = plans[0].batches_per_epoch
        seen = [
            row
            for plan in plans
            for batch in range(epoch * size, (epoch + 1) * size)
            for row in plan.rows(batch).rows_B.tolist()
        ]
        assert Counter(seen) == Counter(rows)


def test_all_shards_give_the_order_of_no_choice() -> None:
    whole = StreamPlan(50, 10, 7, seed=3, window_shards=2)
    named = StreamPlan(50, 10, 7, seed=3, window_shards=2, shards=(0, 1, 2, 3, 4))
    for batch in range(20):
        np.testing.assert_array_equal(whole.rows(batch).rows_B, named.rows(batch).rows_B)


def test_a_batch_that_is_larger_than_the_shards_is_refused() -> None:
    with pytest.raises(InputError, match="with 10 samples"):
        StreamPlan(50, 10, 16, seed=0, drop_last=True, shards=(2,))
