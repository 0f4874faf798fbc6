import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from teacher_cache.errors import InputError
from teacher_cache.labels.arrays import check_topk
from teacher_cache.labels.topk import labels_from_logits


def random_logits(batch: int, classes: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(batch, classes, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 30), st.integers(0, 1000))
def test_labels_hold_the_softmax(k: int, seed: int) -> None:
    logits_BC = random_logits(4, 30, seed)
    probabilities_BC = logits_BC.double().softmax(1)
    labels = labels_from_logits(logits_BC, k)
    kept_BK = (1 - labels.tail_B.double())[:, None] * labels.relative_logits_BK.double().softmax(1)
    torch.testing.assert_close(
        kept_BK, probabilities_BC.gather(1, labels.class_ids_BK.long()), rtol=1e-5, atol=0
    )
    assert (labels.relative_logits_BK[:, 0] == 0).all()
    assert (labels.relative_logits_BK.diff(dim=1) <= 0).all()


def test_the_tail_of_all_classes_is_zero() -> None:
    assert (labels_from_logits(random_logits(5, 7), 7).tail_B == 0).all()


def test_a_tiny_tail_keeps_its_precision() -> None:
    logits_BC = torch.tensor([[0.0, -30.0, -31.0]])
    tail = labels_from_logits(logits_BC, 1).tail_B.item()
    assert tail == pytest.approx(logits_BC.double().softmax(1)[0, 1:].sum().item(), rel=1e-5)


def test_equal_logits_go_to_the_lower_class_id() -> None:
    logits_BC = torch.tensor([[1.0, 3.0, 3.0, 1.0, 3.0, 1.0]])
    assert labels_from_logits(logits_BC, 4).class_ids_BK.tolist() == [[1, 2, 4, 0]]


def test_ties_of_bfloat16_are_decided_too() -> None:
    logits_BC = random_logits(8, 1000).bfloat16()
    expected = [sorted(range(1000), key=lambda c: (-row[c], c))[:10] for row in logits_BC.tolist()]
    assert labels_from_logits(logits_BC, 10).class_ids_BK.tolist() == expected


@pytest.mark.parametrize("k", [0, -1, 11])
def test_a_k_that_cannot_be_filled_is_refused(k: int) -> None:
    with pytest.raises(InputError, match=rf"--topk {k} with 10 classes"):
        check_topk(k, 10)


@pytest.mark.parametrize("k", [1, 10])
def test_one_class_and_all_classes_are_fine(k: int) -> None:
    check_topk(k, 10)
