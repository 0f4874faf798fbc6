"""Cached training is live training, and how far eight bits can be from it is known."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.parity import ParityConfig, is_parity, measure
from benchmarks.parity_bound import LARGEST_ERROR, soft_term_bound
from teacher_cache.labels.losses import soft_loss
from teacher_cache.labels.topk import Labels, labels_from_logits

B, C = 8, 10


@pytest.mark.slow
@given(
    st.integers(0, 2000),
    st.sampled_from([0.5, 1.0, 3.0, 10.0]),
    st.floats(0.1, 8.0),
    st.sampled_from(["random", "largest", "against"]),
)
def test_the_bound_holds_for_every_error_of_a_stored_logit(
    seed: int, tau: float, scale: float, errors: str
) -> None:
    generator = torch.Generator().manual_seed(seed)
    teacher_BC = (scale * torch.randn(B, C, generator=generator)).double()
    student_BC = torch.randn(B, C, generator=generator).double() * 3
    error_BC = LARGEST_ERROR * (2 * torch.rand(B, C, generator=generator).double() - 1)
    if errors == "largest":
        error_BC = LARGEST_ERROR * error_BC.sign()
    if errors == "against":  # what moves the loss most, to first order
        excess_BC = (teacher_BC / tau).log_softmax(1) - (student_BC / tau).log_softmax(1)
        error_BC = LARGEST_ERROR * (excess_BC - excess_BC.median(1, keepdim=True).values).sign()

    def term(logits_BC: torch.Tensor) -> torch.Tensor:
        target_BC = (logits_BC / tau).log_softmax(1)
        return tau**2 * (target_BC.exp() * (target_BC - (student_BC / tau).log_softmax(1))).sum(1)

    gap_B = (term(teacher_BC + error_BC) - term(teacher_BC)).abs()
    assert (gap_B <= soft_term_bound(student_BC, teacher_BC, tau) + 1e-12).all()


def test_the_bound_is_of_the_term_that_is_trained_on_and_not_idle() -> None:
    generator = torch.Generator().manual_seed(0)
    teacher_BC, student_BC = (3 * torch.randn(B, C, generator=generator) for _ in range(2))
    exact = labels_from_logits(teacher_BC, C)
    steps_BK = (exact.relative_logits_BK * 16).round() / 16
    stored = Labels(exact.class_ids_BK, steps_BK, exact.tail_B)
    gap = (
        soft_loss(student_BC, stored, temperature=2.0) - soft_loss(student_BC, exact, temperature=2.0)
    ).abs()
    bound = soft_term_bound(student_BC, teacher_BC, 2.0).mean()
    assert bound / 100 < gap <= bound


@pytest.mark.slow
def test_a_small_run_is_the_live_one(folders: Path, tmp_path: Path) -> None:
    config = ParityConfig(str(folders), steps=8, teacher_steps=8, batch_size=16)
    found = measure(config, tmp_path)
    assert found["hard, q8"]["equal"] == found["hard, float32"]["equal"] == 8
    assert found["soft, float32"]["largest_gap"] <= 1e-6
    assert found["soft, q8, at the same weights"]["within_bound"] == 8
    assert is_parity(found)
    found["soft, q8, at the same weights"]["within_bound"] = 7
    assert not is_parity(found)
