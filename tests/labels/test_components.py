"""Labels by components against their formula, written out in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given
from hypothesis import strategies as st

from teacher_cache.labels.affinity_rule import ComponentRule, component_rule
from teacher_cache.labels.arrays import BasisArrays
from teacher_cache.labels.codec import decode, decode_basis, encode, zigzag
from teacher_cache.labels.components import centred, fitted_basis, with_codes
from teacher_cache.labels.ensemble import mean_log_probabilities
from teacher_cache.labels.losses import soft_loss
from teacher_cache.labels.tails import dense_probabilities
from teacher_cache.labels.topk import (
    Basis,
    CodedLabels,
    EnsembleAffinity,
    EnsembleLabels,
    OneLabels,
    labels_from_logits,
)

B, C, N, CODES = 6, 40, 300, 8
RULE: ComponentRule = {
    "codes": CODES,
    "size": 0.5,
    "directions": 16,
    "max_views": N,
    "fit_temperature": 4.0,
    "fit_least": 0.2,
}


def logits(seed: int, count: int = B, classes: int = C) -> torch.Tensor:
    """Return logits that lie near a plane of twelve dimensions, as those of a teacher do."""
    plane = torch.randn(12, classes, generator=torch.Generator().manual_seed(7))
    features = 1.5 * torch.randn(count, 12, generator=torch.Generator().manual_seed(seed))
    noise = 0.2 * torch.randn(count, classes, generator=torch.Generator().manual_seed(seed + 1000))
    return features @ plane + noise


def fitted(rule: ComponentRule = RULE, count: int = N) -> BasisArrays:
    return fitted_basis(centred(logits(1, count)).half().numpy(), rule)


def stored_labels(seed: int, k: int, arrays: BasisArrays) -> OneLabels:
    """Return labels as they are read from an archive."""
    basis = decode_basis(arrays, CODES)
    found = with_codes(labels_from_logits(logits(seed), k), logits(seed), basis, RULE)
    return decode(encode(found, C, "q8"), C, "q8")


def reference(labels: OneLabels, arrays: BasisArrays) -> np.ndarray:
    """Return the probabilities of all classes as docs/archive-format.md gives them, float64 (B, C)."""
    basis, step, error = (array.astype(np.float64) for array in arrays)
    mean, directions, noise = basis[0], basis[1:], error[0]
    found = []
    for ids, relative, tail, codes in zip(*(part.numpy() for part in labels), strict=True):
        share = np.exp(relative.astype(np.float64))
        kept = (1 - float(tail)) * share / share.sum()
        shape = mean + (codes * step[1 : 1 + len(codes)]) @ directions[: len(codes)]
        others = np.delete(np.arange(len(mean)), ids)
        level = np.log(np.exp(shape[others]).sum()) - np.log(max(float(tail), 1.2e-38))
        wrong = np.log(kept) - shape[ids] + level
        spread = (directions.T * error[1:]) @ directions
        weights = np.linalg.solve(spread[np.ix_(ids, ids)] + noise * np.eye(len(ids)), wrong)
        mass = np.exp(shape + spread[:, ids] @ weights)[others]
        dense = np.zeros(len(mean))
        dense[ids], dense[others] = kept, float(tail) * mass / mass.sum()
        found.append(dense)
    return np.array(found)


def kl(seed: int, dense_BC: torch.Tensor) -> float:
    return float(F.kl_div(dense_BC.log(), logits(seed).softmax(1), reduction="batchmean"))


@given(st.integers(2, 200), st.integers(1, 10))
def test_tails_are_the_formula(seed: int, k: int) -> None:
    arrays = fitted()
    labels = stored_labels(seed, k, arrays)
    found = dense_probabilities(labels, C, decode_basis(arrays, CODES))
    np.testing.assert_allclose(found.numpy(), reference(labels, arrays), rtol=2e-4, atol=1e-8)
    torch.testing.assert_close(found.gather(1, labels.class_ids_BK.long()), labels.probabilities())
    torch.testing.assert_close(found.sum(1), torch.ones(B))


@pytest.mark.parametrize("tau", [1.0, 3.0])
@pytest.mark.parametrize("seed", range(2, 8))
def test_loss_and_gradient_are_those_of_the_formula(seed: int, tau: float) -> None:
    arrays = fitted()
    labels = stored_labels(seed, 5, arrays)
    ours_BC, theirs_BC = logits(seed + 50).requires_grad_(), logits(seed + 50).double().requires_grad_()
    loss = soft_loss(ours_BC, labels, temperature=tau, affinity=decode_basis(arrays, CODES))
    target_BC = (torch.from_numpy(reference(labels, arrays)).log() / tau).softmax(1)
    expected = tau**2 * F.kl_div((theirs_BC / tau).log_softmax(1), target_BC, reduction="batchmean")
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    assert ours_BC.grad is not None
    assert theirs_BC.grad is not None
    torch.testing.assert_close(ours_BC.grad.double(), theirs_BC.grad, rtol=1e-5, atol=1e-5)


def test_several_teachers_are_averaged_each_in_its_own_basis() -> None:
    bases = [fitted(), fitted(count=200)]
    members = tuple(stored_labels(3, 5, arrays) for arrays in bases)
    ensemble = EnsembleLabels(members, torch.tensor([0.25, 0.75]))
    affinity = EnsembleAffinity(tuple(decode_basis(arrays, CODES) for arrays in bases))
    found = mean_log_probabilities(ensemble, C, temperature=1.0, tail="affinity", affinity=affinity).exp()
    wanted = 0.25 * reference(members[0], bases[0]) + 0.75 * reference(members[1], bases[1])
    np.testing.assert_allclose(found.numpy(), wanted, rtol=2e-4, atol=1e-8)


def mean_kl(arrays: BasisArrays, basis: Basis | None) -> float:
    """Return the KL to the teacher of labels with five classes, over some views."""
    found = [kl(seed, dense_probabilities(stored_labels(seed, 5, arrays), C, basis)) for seed in range(2, 30)]
    return sum(found) / len(found)


def test_a_label_with_codes_is_nearer_to_its_teacher_than_one_without() -> None:
    arrays = fitted()
    assert mean_kl(arrays, decode_basis(arrays, CODES)) < mean_kl(arrays, None) / 2


@given(st.integers(2, 200), st.integers(1, 12))
def test_codes_fit_what_the_top_k_leaves_most_where_it_is_likely(seed: int, k: int) -> None:
    """The least squares of the formula, in float64, rounded; b is one more unknown."""
    arrays, some = fitted(), logits(seed)
    top = labels_from_logits(some, k)
    basis, error = arrays.basis.astype(np.float64), arrays.basis_error.astype(np.float64)
    mean, directions, coded = basis[0], basis[1:], basis[1 : 1 + CODES]
    spread = (directions.T * error[1:]) @ directions
    wanted = []
    for row, ids in zip(some.double().numpy(), top.class_ids_BK.numpy(), strict=True):
        others = np.delete(np.arange(C), ids)
        likely = np.exp(row[others] / RULE["fit_temperature"])
        root = np.sqrt(RULE["fit_least"] + (1 - RULE["fit_least"]) * (C - k) * likely / likely.sum())
        kept = spread[np.ix_(ids, ids)] + error[0] * np.eye(k)
        # what a reader leaves of a shape in the others, once it has seen the kept classes
        left = np.vstack([coded, np.ones(C), row - row.mean() - mean])
        left = left[:, others] - left[:, ids] @ np.linalg.solve(kept, spread[np.ix_(ids, others)])
        solved = np.linalg.lstsq((root * left[:-1]).T, root * left[-1])[0]
        wanted.append(solved[:CODES] / RULE["size"])
    found = with_codes(top, some, decode_basis(arrays, CODES), RULE).codes_BR.numpy()
    np.testing.assert_allclose(found, np.clip(wanted, -127, 127), atol=0.55)


def test_directions_without_codes_help_too() -> None:
    """What the kept classes say of the others is told by directions that no code is stored for."""
    few = fitted({**RULE, "directions": CODES})
    whole = fitted()
    assert mean_kl(whole, decode_basis(whole, CODES)) < mean_kl(few, decode_basis(few, CODES))


def test_codes_of_every_value_come_back() -> None:
    codes = np.arange(-127, 128).astype(np.int8)
    assert zigzag(np.array([0, -1, 1, -2, 2], np.int8)).tolist() == [0, 1, 2, 3, 4]
    labels = CodedLabels(*labels_from_logits(logits(0, 1), 5), torch.from_numpy(codes[None]))
    found = decode(encode(labels, C, "q8"), C, "q8")
    assert isinstance(found, CodedLabels)
    assert found.codes_BR.tolist() == [codes.tolist()]


@pytest.mark.parametrize(("classes", "k"), [(2, 1), (3, 2), (10, 5)])
def test_few_classes_have_few_directions(classes: int, k: int) -> None:
    rule = component_rule(64, classes, 1000)
    assert rule["codes"] == rule["directions"] == classes - 1
    some = logits(1, N, classes)
    basis = decode_basis(fitted_basis(centred(some).half().numpy(), rule), rule["codes"])
    labels = with_codes(labels_from_logits(some, k), some, basis, rule)
    found = dense_probabilities(labels, classes, basis)
    assert found.isfinite().all()
    torch.testing.assert_close(found.sum(1), torch.ones(N))
    if k == classes - 1:  # one class is left, and has the whole tail
        torch.testing.assert_close(found, some.softmax(1), rtol=1e-4, atol=1e-6)


def test_views_that_are_fewer_than_directions_give_fewer() -> None:
    arrays = fitted(count=5)
    assert (arrays.basis[1:5] != 0).any(1).all()
    assert (arrays.basis[5:] == 0).all()
    assert (arrays.basis_step[5:] == 0).all()
    found = dense_probabilities(stored_labels(3, 5, arrays), C, decode_basis(arrays, CODES))
    assert found.isfinite().all()


def test_wide_and_narrow_views_give_the_same_basis() -> None:
    """The smaller product is decomposed: that of views if they are fewer than classes."""
    many = centred(logits(1, 39)).half().numpy()
    twice = np.concatenate([many, many])
    narrow, wide = fitted_basis(twice, RULE), fitted_basis(many, RULE)
    np.testing.assert_allclose(narrow.basis[:9].astype(float), wide.basis[:9].astype(float), atol=2e-3)


def test_a_basis_is_made_again_to_the_byte() -> None:
    for ours, theirs in zip(fitted(), fitted(), strict=True):
        assert ours.tobytes() == theirs.tobytes()


def test_labels_without_codes_are_refused_with_a_basis() -> None:
    labels = labels_from_logits(logits(0), 5)
    with pytest.raises(ValueError, match="give the basis of their archive"):
        dense_probabilities(labels, C, decode_basis(fitted(), CODES))


def test_a_student_of_other_classes_is_refused() -> None:
    arrays = fitted()
    with pytest.raises(ValueError, match=r"student of 41 classes, and labels of 40"):
        soft_loss(
            torch.zeros(B, 41),
            stored_labels(0, 5, arrays),
            temperature=1.0,
            affinity=decode_basis(arrays, CODES),
        )
