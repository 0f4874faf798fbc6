"""Tails against their formulas, written out class by class in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from teacher_cache.labels import affinity as affinity_module
from teacher_cache.labels.affinity import Probabilities, affinity_rows, probabilities_of
from teacher_cache.labels.affinity_rule import (
    affinity_rule,
    calibration_parts,
    calibration_rows_views,
    num_calibration_views,
)
from teacher_cache.labels.codec import decode, encode
from teacher_cache.labels.tails import dense_probabilities, sharpening
from teacher_cache.labels.topk import Labels, labels_from_logits

B, C = 6, 30


def logits(seed: int, count: int = B, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(count, C, generator=torch.Generator().manual_seed(seed))


def affinity_of(seed: int, entries: int) -> Labels:
    return affinity_rows(probabilities_of(logits(seed, 200)), C, entries)


def dense_rows(affinity: Labels) -> list[list[float]]:
    """Return A, (C + 1, C), each row's tail spread evenly."""
    entries = affinity.class_ids_BK.shape[1]
    rows = []
    for ids, relative, tail in zip(*(part.tolist() for part in affinity), strict=True):
        total = math.fsum(map(math.exp, relative))
        last = (1 - tail) * math.exp(relative[-1]) / total
        row = [min(max(tail, math.exp(-255 / 16)) / max(C - entries, 1), last)] * C
        for place, value in zip(ids, relative, strict=True):
            row[place] = (1 - tail) * math.exp(value) / total
        rows.append(row)
    return rows


def reference(ids: list[int], relative: list[float], tail: float, rows: list[list[float]]) -> list[float]:
    """Return t of one label: the docstring of labels/tails.py, word for word."""
    total = math.fsum(map(math.exp, relative))
    shares = [math.exp(value) / total for value in relative]
    power = sharpening(len(ids), C)
    log_a = [
        power * math.fsum(share * math.log(rows[j][c]) for j, share in zip(ids, shares, strict=True))
        + (1 - power) * math.log(rows[C][c])
        for c in range(C)
    ]
    outside = [c for c in range(C) if c not in ids]
    norm = math.fsum(math.exp(log_a[c]) for c in outside)
    dense = [0.0] * C
    for c in outside:
        dense[c] = tail * math.exp(log_a[c]) / norm
    for c, share in zip(ids, shares, strict=True):
        dense[c] = (1 - tail) * share
    return dense


@given(st.integers(0, 300), st.integers(1, C - 1), st.sampled_from([4, 20, C]))
def test_the_affinitys_tail_is_the_formula(seed: int, k: int, entries: int) -> None:
    affinity, labels = affinity_of(seed, entries), labels_from_logits(logits(seed + 1), k)
    rows = dense_rows(affinity)
    expected = [reference(*label, rows) for label in zip(*(part.tolist() for part in labels), strict=True)]
    found = dense_probabilities(labels, C, affinity)
    torch.testing.assert_close(found.double(), torch.tensor(expected).double(), rtol=2e-4, atol=1e-7)


@given(st.integers(0, 300), st.integers(1, C))
def test_every_tail_keeps_the_named_classes_and_sums_to_one(seed: int, k: int) -> None:
    labels = labels_from_logits(logits(seed), k)
    for affinity in (None, affinity_of(seed, 8)):
        dense = dense_probabilities(labels, C, affinity)
        torch.testing.assert_close(dense.sum(1), torch.ones(B))
        kept = (1 - labels.tail_B)[:, None] * labels.relative_logits_BK.softmax(1)
        torch.testing.assert_close(dense.gather(1, labels.class_ids_BK.long()), kept)
        assert (dense >= 0).all()


def test_with_all_classes_it_is_the_softmax_itself() -> None:
    labels = labels_from_logits(logits(0), C)
    torch.testing.assert_close(dense_probabilities(labels, C, None), logits(0).softmax(1))


def test_even_tails_are_even() -> None:
    labels = labels_from_logits(logits(0), 4)
    others = dense_probabilities(labels, C, None).scatter(1, labels.class_ids_BK.long(), 0.0)
    expected = labels.tail_B / (C - 4)
    assert torch.allclose(others.sort(1).values[:, 4:], expected[:, None].expand(B, C - 4))


def test_an_affinity_tells_the_teachers_habits() -> None:
    """A teacher that confuses classes in pairs: the tail goes to the other of the pair."""
    views_BC = torch.full((2 * C, C), -9.0)
    for view in range(2 * C):
        views_BC[view, view % C], views_BC[view, (view % C) ^ 1] = 3.0, 2.0
    rows = affinity_rows(probabilities_of(views_BC), C, 8)
    label = labels_from_logits(views_BC[:C], 1)
    dense = dense_probabilities(label, C, decode(encode(rows, C, "q8"), C, "q8"))
    partners = torch.arange(C) ^ 1
    assert (dense[torch.arange(C), partners] > 0.8 * label.tail_B).all()


@pytest.mark.parametrize("is_whole", [True, False])
def test_rows_are_the_formula_in_float64(is_whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A[c] = (sum of p_c p + half the mean p) / its sum, with p whole or cut to the most probable classes."""
    monkeypatch.setattr(affinity_module, "_MOST_WHOLE", C if is_whole else 4)
    monkeypatch.setattr(affinity_module, "_KEPT", 12)
    views = probabilities_of(logits(3, 100))
    assert views.class_ids_NM.shape == (100, C if is_whole else 12)
    p_NC = np.zeros((100, C))
    np.put_along_axis(p_NC, views.class_ids_NM.astype(int), views.values_NM, 1)
    expected_RC = np.concatenate([p_NC.T @ p_NC + 0.5 * p_NC.mean(0), p_NC.mean(0, keepdims=True)])
    expected_RC /= expected_RC.sum(1, keepdims=True)
    rows = affinity_rows(views, C, 9)
    kept_RE = (1 - rows.tail_B[:, None]) * rows.relative_logits_BK.softmax(1)
    order_RE = np.argsort(-expected_RC, axis=1, kind="stable")[:, :9]
    np.testing.assert_array_equal(rows.class_ids_BK, order_RE)
    np.testing.assert_allclose(kept_RE, np.take_along_axis(expected_RC, order_RE, 1), rtol=1e-5)


def test_the_rows_do_not_depend_on_how_views_are_batched() -> None:
    whole = affinity_rows(probabilities_of(logits(0, 100)), C, 8)
    parts = [probabilities_of(part) for part in logits(0, 100).split(7)]
    joined = Probabilities(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    for one, other in zip(whole, affinity_rows(joined, C, 8), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_class_never_thought_of_has_the_mean_as_its_row() -> None:
    views_BC = logits(0, 50)
    views_BC[:, 7] = -200.0
    rows = dense_probabilities(affinity_rows(probabilities_of(views_BC), C, C), C, None)
    torch.testing.assert_close(rows[7], rows[C])


def test_calibration_views_are_fixed() -> None:
    rows, views = calibration_rows_views(10, 4)
    assert (rows.tolist(), views.tolist()) == ([0, 2, 5, 7], [0, 0, 0, 0])
    rows, views = calibration_rows_views(3, 7)
    assert (rows.tolist(), views.tolist()) == ([0, 1, 2, 0, 1, 2, 0], [0, 0, 0, 1, 1, 1, 2])


@pytest.mark.parametrize(
    ("k", "num_classes", "num_rows", "rule", "num_views"),
    [
        (10, 1000, 1_281_167, {"entries": 128, "views_per_class": 20}, 20_000),
        (2, 3, 60, {"entries": 3, "views_per_class": 20}, 60),
        (2, 3, 59, {"entries": 3, "views_per_class": 20, "max_views": 59}, 59),
        (10, 200, 200, {"entries": 128, "views_per_class": 20, "max_views": 200}, 200),
        (10, 21_841, 14_000_000, {"entries": 128, "views_per_class": 20, "max_views": 2**18}, 2**18),
        (10, 200_000, 1000, {"entries": 83, "views_per_class": 20, "max_views": 1000}, 1000),
        (3, 3, 5000, None, 1024),
    ],
)
def test_the_rule_of_an_affinity_is_part_of_the_request(
    k: int, num_classes: int, num_rows: int, rule: dict | None, num_views: int
) -> None:
    found = affinity_rule(k, num_classes, num_rows)
    assert found == rule
    assert num_calibration_views(found, num_classes, num_rows) == num_views


@given(st.integers(0, 5000))
def test_parts_hold_every_calibration_view_once(num_views: int) -> None:
    parts = calibration_parts(num_views)
    assert [view for part in parts for view in range(part.start, part.stop)] == list(range(num_views))
    assert len({part.name for part in parts}) == len(parts)
