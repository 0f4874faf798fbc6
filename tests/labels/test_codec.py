import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from teacher_cache.labels.arrays import idx_dtype, idx_fill
from teacher_cache.labels.codec import decode, encode
from teacher_cache.labels.encodings import NO_TAIL, VALUE_STEP
from teacher_cache.labels.topk import Labels, labels_from_logits

C = 50


def labels_of(seed: int, k: int, scale: float = 3.0) -> Labels:
    generator = torch.Generator().manual_seed(seed)
    return labels_from_logits(scale * torch.randn(6, C, generator=generator), k)


@given(st.integers(0, 10_000), st.integers(1, C), st.sampled_from([0.1, 1.0, 5.0, 30.0]))
def test_a_value_comes_back_within_half_a_step(seed: int, k: int, scale: float) -> None:
    labels = labels_of(seed, k, scale)
    back = decode(encode(labels, C, "q8"), C, "q8")
    assert torch.equal(back.class_ids_BK, labels.class_ids_BK)
    gaps = -labels.relative_logits_BK.diff(dim=1)
    reachable = (gaps < 255 * VALUE_STEP).all(dim=1)
    error = (back.relative_logits_BK - labels.relative_logits_BK).abs().max(dim=1).values
    assert (error[reachable] <= VALUE_STEP / 2 + 1e-4).all()
    assert (back.relative_logits_BK.diff(dim=1) <= 0).all()


@given(st.integers(0, 10_000), st.integers(1, C - 1))
def test_a_tail_comes_back_within_half_a_step(seed: int, k: int) -> None:
    labels = labels_of(seed, k)
    back = decode(encode(labels, C, "q8"), C, "q8")
    ratio = (back.tail_B.double() / labels.tail_B.double()).log().abs()
    none = labels.tail_B < math.exp(-(NO_TAIL - 0.51) * VALUE_STEP)
    assert (ratio[~none] <= VALUE_STEP / 2 + 1e-6).all()
    assert (back.tail_B[none] < math.exp(-(NO_TAIL - 1.01) * VALUE_STEP)).all()


@given(st.integers(0, 10_000), st.integers(1, C))
def test_decoding_and_encoding_again_changes_nothing(seed: int, k: int) -> None:
    once = encode(labels_of(seed, k), C, "q8")
    again = encode(decode(once, C, "q8"), C, "q8")
    np.testing.assert_array_equal(again.idx, once.idx)
    np.testing.assert_array_equal(again.values, once.values)


def test_all_classes_have_no_tail() -> None:
    arrays = encode(labels_of(0, C), C, "q8")
    assert (arrays.tail == NO_TAIL).all()
    assert (decode(arrays, C, "q8").tail_B == 0).all()


def test_a_flat_distributions_tail_is_not_rounded_to_everything() -> None:
    flat = labels_from_logits(torch.zeros(1, 1000), 10)
    arrays = encode(flat, 1000, "q8")
    assert arrays.tail.tolist() == [0]
    assert decode(arrays, 1000, "q8").tail_B.item() == pytest.approx(0.99)


def test_a_gap_too_wide_for_a_byte_is_cut_and_later_gaps_catch_up() -> None:
    labels = labels_from_logits(torch.tensor([[0.0, -20.0, -25.0]]), 3)
    assert encode(labels, 3, "q8").values.tolist() == [[0, 255, 145]]


def test_stored_types_are_small_and_their_fill_is_no_class() -> None:
    assert (idx_dtype(65_535), idx_fill(65_535)) == (np.dtype("<u2"), 65_535)
    assert (idx_dtype(65_536), idx_fill(65_536)) == (np.dtype("<u4"), 2**32 - 1)


def test_stored_values_are_pinned() -> None:
    arrays = encode(labels_from_logits(torch.tensor([[0.5, 2.0, -1.0, 1.9]]), 3), 4, "q8")
    assert arrays.idx.tolist() == [[1, 3, 0]]
    assert arrays.values.tolist() == [[0, 2, 22]]
    assert arrays.tail.tolist() == [60]
