"""Every loss against its formula, written out densely in float64."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given
from hypothesis import strategies as st

from teacher_cache.labels.affinity import affinity_rows, probabilities_of
from teacher_cache.labels.losses import hard_loss, soft_loss
from teacher_cache.labels.tails import dense_probabilities
from teacher_cache.labels.topk import Labels, labels_from_logits

B, C = 6, 12


def logits(seed: int) -> torch.Tensor:
    return 3 * torch.randn(B, C, generator=torch.Generator().manual_seed(seed))


def dense_teacher(labels: Labels) -> torch.Tensor:
    """Return the probabilities (B, C) a label stands for, its tail spread evenly, in float64."""
    k = labels.class_ids_BK.shape[1]
    tail_B = labels.tail_B.double()
    dense_BC = (tail_B / max(C - k, 1))[:, None].expand(B, C).clone()
    kept_BK = (1 - tail_B)[:, None] * labels.relative_logits_BK.double().softmax(1)
    return dense_BC.scatter(1, labels.class_ids_BK.long(), kept_BK)


def soft_reference(student_BC: torch.Tensor, teacher_BC: torch.Tensor, tau: float) -> torch.Tensor:
    powered_BC = teacher_BC ** (1 / tau)
    target_BC = powered_BC / powered_BC.sum(1, keepdim=True)
    log_student_BC = F.log_softmax(student_BC.double() / tau, dim=1)
    return tau**2 * F.kl_div(log_student_BC, target_BC, reduction="batchmean")


@given(st.integers(0, 500), st.integers(1, C), st.sampled_from([0.5, 1.0, 3.0, 20.0]))
def test_soft_is_the_papers_formula(seed: int, k: int, tau: float) -> None:
    labels = labels_from_logits(logits(seed), k)
    found = soft_loss(logits(seed + 1), labels, temperature=tau, tail="uniform")
    torch.testing.assert_close(
        found.double(), soft_reference(logits(seed + 1), dense_teacher(labels), tau), rtol=2e-4, atol=2e-5
    )


@given(st.integers(0, 500), st.sampled_from([1.0, 3.0]))
def test_soft_with_all_classes_is_the_kl_to_the_teacher_itself(seed: int, tau: float) -> None:
    teacher_BC, student_BC = logits(seed), logits(seed + 1)
    found = soft_loss(student_BC, labels_from_logits(teacher_BC, C), temperature=tau)
    expected = tau**2 * F.kl_div(
        F.log_softmax(student_BC.double() / tau, 1),
        (teacher_BC.double() / tau).softmax(1),
        reduction="batchmean",
    )
    torch.testing.assert_close(found.double(), expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("tail", [0.0, 1e-30])
def test_soft_is_finite_where_the_tail_is_nothing(k: int, tail: float) -> None:
    label = labels_from_logits(logits(0), k)._replace(tail_B=torch.full((B,), tail))
    student_BC = logits(1).requires_grad_()
    loss = soft_loss(student_BC, label, temperature=3.0, tail="uniform")
    loss.backward()
    assert loss.isfinite()
    assert student_BC.grad is not None
    assert student_BC.grad.isfinite().all()


def test_a_student_equal_to_its_teacher_has_no_soft_loss() -> None:
    assert soft_loss(logits(0), labels_from_logits(logits(0), C), temperature=3.0).item() == pytest.approx(
        0, abs=1e-5
    )


def test_hard_is_the_cross_entropy_of_the_teachers_top_class() -> None:
    teacher_BC = logits(0)
    expected = F.cross_entropy(logits(1).double(), teacher_BC.argmax(1))
    for k in (1, 5, C):
        found = hard_loss(logits(1), labels_from_logits(teacher_BC, k))
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)


def affinity_of(seed: int) -> Labels:
    calibration_BC = torch.cat([logits(seed + n) for n in range(20)])
    return affinity_rows(probabilities_of(calibration_BC), calibration_BC.shape[1], 5)


def tail_reference(student_BC: torch.Tensor, labels: Labels, tau: float, tail: str) -> torch.Tensor:
    """Return the soft term as the module's docstring writes it, in float64."""
    teacher_BC = dense_teacher(labels)
    if tail == "renormalised":
        ids_BK = labels.class_ids_BK.long()
        kept_BK = teacher_BC.gather(1, ids_BK)
        return soft_reference(
            student_BC, torch.zeros(B, C).double().scatter(1, ids_BK, kept_BK / kept_BK.sum(1)[:, None]), tau
        )
    powered_BC = teacher_BC ** (1 / tau)
    target_BC, student_BC = (
        powered_BC / powered_BC.sum(1, keepdim=True),
        (student_BC.double() / tau).softmax(1),
    )
    is_kept_BC = torch.zeros(B, C, dtype=torch.bool).scatter(1, labels.class_ids_BK.long(), True)
    kept_B = (target_BC * (target_BC / student_BC).log()).where(is_kept_BC, 0).sum(1)
    teacher_B, student_B = target_BC.where(~is_kept_BC, 0).sum(1), student_BC.where(~is_kept_BC, 0).sum(1)
    return tau**2 * (kept_B + teacher_B * (teacher_B / student_B).log()).mean()


@given(
    st.integers(0, 500),
    st.integers(1, C - 1),
    st.sampled_from([0.5, 1.0, 3.0]),
    st.sampled_from(["bucket", "renormalised"]),
)
def test_other_tails_are_their_formulas(seed: int, k: int, tau: float, tail: str) -> None:
    labels = labels_from_logits(logits(seed), k)
    found = soft_loss(logits(seed + 1), labels, temperature=tau, tail=tail)
    expected = tail_reference(logits(seed + 1), labels, tau, tail)
    torch.testing.assert_close(found.double(), expected, rtol=3e-4, atol=3e-5)


@given(st.integers(0, 500), st.integers(1, C - 1), st.sampled_from([0.5, 1.0, 3.0]))
def test_the_affinitys_tail_is_its_formula(seed: int, k: int, tau: float) -> None:
    labels, affinity = labels_from_logits(logits(seed), k), affinity_of(seed)
    found = soft_loss(logits(seed + 1), labels, temperature=tau, affinity=affinity)
    teacher_BC = dense_probabilities(labels, C, affinity).double()
    expected = soft_reference(logits(seed + 1), teacher_BC, tau)
    torch.testing.assert_close(found.double(), expected, rtol=3e-4, atol=3e-5)


@pytest.mark.parametrize("tail", ["affinity", "uniform", "bucket", "renormalised"])
def test_with_all_classes_every_tail_is_the_kl_to_the_teacher_itself(tail: str) -> None:
    found = soft_loss(logits(1), labels_from_logits(logits(0), C), temperature=2.0, tail=tail)
    expected = soft_reference(logits(1), logits(0).double().softmax(1), 2.0)
    torch.testing.assert_close(found.double(), expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("tail", ["affinity", "bucket", "renormalised"])
@pytest.mark.parametrize("mass", [0.0, 1e-30])
def test_every_tail_is_finite_where_it_is_nothing(tail: str, mass: float) -> None:
    label = labels_from_logits(logits(0), 5)._replace(tail_B=torch.full((B,), mass))
    student_BC = logits(1).requires_grad_()
    soft_loss(student_BC, label, temperature=3.0, tail=tail, affinity=affinity_of(0)).backward()
    assert student_BC.grad is not None
    assert student_BC.grad.isfinite().all()


def test_a_tail_by_an_affinity_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="affinity"):
        soft_loss(logits(1), labels_from_logits(logits(0), 3), temperature=1.0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf])
def test_a_temperature_that_is_not_above_0_is_refused(temperature: float) -> None:
    logits_BC = torch.randn(2, 5)
    with pytest.raises(ValueError, match="give a finite number above 0"):
        soft_loss(logits_BC, labels_from_logits(logits_BC, 2), temperature=temperature, tail="uniform")


def test_a_student_of_other_classes_is_refused() -> None:
    labels = labels_from_logits(torch.eye(5)[[4, 1]], 2)
    affinity = labels_from_logits(torch.randn(6, 5), 3)
    for call in (hard_loss, functools.partial(soft_loss, temperature=1.0)):
        with pytest.raises(ValueError, match="names class 4, and the student has 4 classes"):
            call(torch.randn(2, 4), labels)
        with pytest.raises(ValueError, match=r"student of 9 classes, and labels of 5.*num_classes="):
            call(torch.randn(2, 9), labels, affinity=affinity)
    assert hard_loss(torch.randn(2, 5), labels, affinity=affinity).isfinite()
