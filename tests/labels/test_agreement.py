"""Agreement of a teacher with true labels: what is told, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from teacher_cache.labels.agreement import Agreement, agreement_of


def teacher(num_classes: int, num_views: int, accuracy: float, order: np.ndarray | None = None) -> Agreement:
    """Return the agreement of a teacher of some accuracy, with its classes in an order."""
    rng = np.random.default_rng(num_classes + num_views)
    labels_N = rng.integers(0, num_classes, num_views)
    top_N = np.where(rng.random(num_views) < accuracy, labels_N, rng.integers(0, num_classes, num_views))
    found = agreement_of(top_N if order is None else order[top_N], labels_N)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("num_classes", "num_views", "accuracy"),
    [(2, 40, 1.0), (3, 33, 0.9), (10, 200, 0.4), (200, 4000, 0.3), (200, 200, 0.3), (1000, 20_000, 0.05)],
)
def test_a_right_teacher_fits_and_one_with_permuted_classes_does_not(
    num_classes: int, num_views: int, accuracy: float
) -> None:
    assert teacher(num_classes, num_views, accuracy).verdict == "fits"
    for shift in (1, num_classes // 2):
        order = np.roll(np.arange(num_classes), shift)
        verdict = teacher(num_classes, num_views, accuracy, order).verdict
        assert verdict in ("near chance", "another order"), (shift, verdict)


def test_an_order_that_leaves_some_classes_in_place_is_told_from_the_right_one() -> None:
    by_name = np.array([int(name) for name in sorted(map(str, range(12)))])
    assert teacher(12, 48, 1.0).verdict == "fits"
    found = teacher(12, 48, 1.0, np.argsort(by_name))
    assert found.verdict == "another order"
    assert found.example is not None
    assert found.example[0] != found.example[1]
    half = np.concatenate([np.arange(100), np.roll(np.arange(100, 200), 7)])
    assert teacher(200, 4000, 0.3, half).verdict == "another order"


@pytest.mark.parametrize("num_classes", [2, 10, 200])
def test_a_teacher_that_answers_at_random_or_always_the_same_is_near_chance(num_classes: int) -> None:
    assert teacher(num_classes, 4000, 0.0).verdict == "near chance"
    rng = np.random.default_rng(0)
    labels_N = rng.integers(0, num_classes, 4000)
    same = agreement_of(np.zeros(4000, int), labels_N)
    assert same is not None
    assert same.verdict == "near chance"


def test_a_teacher_that_knows_few_classes_is_not_taken_for_another_order() -> None:
    rng = np.random.default_rng(0)
    labels_N = rng.integers(0, 200, 4000)
    found = agreement_of(np.where(labels_N < 60, labels_N, labels_N % 60), labels_N)
    assert found is not None
    assert found.verdict == "fits"


def test_few_views_are_not_judged_and_none_without_labels() -> None:
    found = agreement_of(np.array([0, 1, 0]), np.array([1, 0, 1]))
    assert found is not None
    assert found.verdict == "too few views"
    assert agreement_of(np.array([0, 1]), np.array([-1, -1])) is None


def test_the_numbers_are_told() -> None:
    labels_N = np.arange(1000) % 10
    found = agreement_of(np.where(np.arange(1000) < 600, labels_N, 0), labels_N)
    assert found is not None
    assert (found.views, found.agreed) == (1000, 640)
    assert found.chance == pytest.approx(0.1)
    assert str(found).startswith(
        "the teacher's top class is the label in 640 of 1,000 views (64.0%; by chance"
    )
