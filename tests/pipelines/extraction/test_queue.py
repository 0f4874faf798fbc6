"""Which unit is next, and what becomes of one that failed."""

from hypothesis import given
from hypothesis import strategies as st

from pipelines.extraction.queue import UnitQueue
from teacher_cache.archive.format.layout import Unit

UNITS = [Unit(shard, 0, 0, 4) for shard in range(5)]
HERE = {"a"}


def test_units_come_in_order_then_those_that_failed() -> None:
    queue = UnitQueue(UNITS, retries=1, max_quarantined=9)
    first = queue.take("a", HERE)
    assert first == UNITS[0]
    assert queue.fail(first, "a", "odd")
    assert [queue.take("a", HERE) for _ in range(6)] == [*UNITS[1:], UNITS[0], None]


def test_what_is_given_back_is_the_next_and_has_not_failed() -> None:
    queue = UnitQueue(UNITS, retries=0, max_quarantined=9)
    queue.give_back(queue.take("a", HERE) or UNITS[4])
    assert queue.take("a", HERE) == UNITS[0]
    assert queue.attempts(UNITS[0]) == 0


def test_a_unit_is_tried_elsewhere_where_there_is_an_elsewhere() -> None:
    queue = UnitQueue(UNITS[:1], retries=2, max_quarantined=9)
    queue.take("a", {"a", "b"})
    queue.fail(UNITS[0], "a", "odd")
    assert queue.take("a", {"a", "b"}) is None
    assert queue.take("b", {"a", "b"}) == UNITS[0]
    queue.fail(UNITS[0], "b", "odd")
    assert queue.take("a", {"a", "b"}) == UNITS[0]


def test_a_unit_is_given_up_with_its_last_reason_and_too_many_stop_all() -> None:
    queue = UnitQueue(UNITS, retries=1, max_quarantined=0)
    assert queue.fail(UNITS[0], "a", "first")
    assert not queue.fail(UNITS[0], "a", "second")
    assert queue.quarantined == {UNITS[0]: "second"}
    assert queue.take("a", HERE) is None


def test_a_stopped_queue_gives_nothing() -> None:
    queue = UnitQueue(UNITS, retries=1, max_quarantined=9)
    queue.stop()
    assert queue.take("a", HERE) is None


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["done", "fail", "give back"])), max_size=200),
    st.integers(0, 3),
)
def test_every_unit_is_done_once_or_given_up_after_its_tries(steps: list, retries: int) -> None:
    queue = UnitQueue(UNITS, retries=retries, max_quarantined=len(UNITS))
    done: list[Unit] = []
    for place, what in [*steps, *[("a", "done")] * 50, *[("b", "done")] * 50]:
        unit = queue.take(place, {"a", "b"})
        if unit is None:
            continue
        if what == "done":
            done.append(unit)
        elif what == "fail":
            assert queue.fail(unit, place, "odd") == (queue.attempts(unit) <= retries)
        else:
            queue.give_back(unit)
    assert sorted([*done, *queue.quarantined]) == UNITS
    assert all(queue.attempts(unit) == retries + 1 for unit in queue.quarantined)
