"""Resizing gives the bits of torch's uint8 bicubic interpolation, which views were made by first."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from teacher_cache.views.resize import resized

SIZES = st.integers(1, 300)


def torchs(pixels_HWC: np.ndarray, height: int, width: int) -> np.ndarray:
    pixels_1CHW = torch.from_numpy(pixels_HWC).permute(2, 0, 1)[None]
    found_1CHW = torch.nn.functional.interpolate(
        pixels_1CHW, size=(height, width), mode="bicubic", antialias=True, align_corners=False
    )
    return found_1CHW[0].permute(1, 2, 0).numpy()


@given(SIZES, SIZES, SIZES, SIZES, st.sampled_from([2, 256]), st.integers(0, 99))
def test_it_is_torchs_at_any_size(
    from_height: int, from_width: int, height: int, width: int, levels: int, seed: int
) -> None:
    """Two levels, black and white, reach the clamps at both ends."""
    rng = np.random.default_rng(seed)
    whole_HWC = (
        rng.integers(0, levels, (from_height + 3, from_width + 5, 3)) * (255 // (levels - 1))
    ).astype(np.uint8)
    box_HWC = whole_HWC[3:, 5:]  # a view with strides of its own, as a crop box is
    assert np.array_equal(
        resized(box_HWC, height, width, 0, 0, height, width), torchs(box_HWC, height, width)
    )


@given(st.integers(0, 150), st.integers(0, 120), st.integers(1, 40), st.integers(1, 50))
def test_a_window_holds_the_pixels_of_the_whole(top: int, left: int, rows: int, columns: int) -> None:
    pixels_HWC = np.random.default_rng(7).integers(0, 256, (211, 97, 3), np.uint8)
    whole_HWC = torchs(pixels_HWC, 190, 170)
    window_HWC = resized(pixels_HWC, 190, 170, top, left, rows, columns)
    assert np.array_equal(window_HWC, whole_HWC[top : top + rows, left : left + columns])


@pytest.mark.parametrize("size", [(40, 30), (40, 31)])
def test_one_side_or_none_may_stay_as_it_is(size: tuple[int, int]) -> None:
    pixels_HWC = np.random.default_rng(3).integers(0, 256, (40, 30, 3), np.uint8)
    assert np.array_equal(resized(pixels_HWC, *size, 0, 0, *size), torchs(pixels_HWC, *size))
