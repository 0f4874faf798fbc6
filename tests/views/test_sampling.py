import decimal
import math
import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision.transforms import functional as tvf

from teacher_cache.views import sampling
from teacher_cache.views.recipe import HorizontalFlip, RandomResizedCrop, Recipe, evaluation, rrc
from teacher_cache.views.sampling import ViewParams, _portable_exp, sample_view

DRAWS = 20_000
HEIGHT, WIDTH = 375, 500


@pytest.fixture(scope="module")
def ours() -> list[ViewParams]:
    return [sample_view(rrc(224), "key", view, HEIGHT, WIDTH) for view in range(DRAWS)]


@pytest.fixture(scope="module")
def theirs() -> np.ndarray:
    """timm's boxes: (top, left, height, width)."""
    random.seed(0)
    crop = RandomResizedCropAndInterpolation(224)
    image = tvf.to_pil_image(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    return np.array([crop.get_params(image, crop.scale, crop.ratio) for _ in range(DRAWS)])


@pytest.mark.parametrize(
    ("quantity", "of_ours", "of_theirs"),
    [
        ("area", lambda p: p.height * p.width, lambda box: box[2] * box[3]),
        ("aspect", lambda p: p.width / p.height, lambda box: box[3] / box[2]),
        ("top", lambda p: p.top, lambda box: box[0]),
        ("left", lambda p: p.left, lambda box: box[1]),
    ],
)
def test_boxes_are_distributed_as_timms(
    quantity: str, of_ours: Callable, of_theirs: Callable, ours: list[ViewParams], theirs: np.ndarray
) -> None:
    result = stats.ks_2samp([of_ours(params) for params in ours], [of_theirs(box) for box in theirs])
    assert result.pvalue > 1e-3, quantity


def test_half_of_the_views_are_flipped(ours: list[ViewParams]) -> None:
    flips = sum(params.flip for params in ours)
    assert stats.binomtest(flips, DRAWS, 0.5).pvalue > 1e-3


def test_the_flip_does_not_depend_on_the_crop(ours: list[ViewParams]) -> None:
    wide = [params.width > params.height for params in ours]
    table = np.histogram2d(wide, [params.flip for params in ours], bins=2)[0]
    assert stats.chi2_contingency(table).pvalue > 1e-3


@given(st.integers(1, 600), st.integers(1, 600), st.integers(0, 50), st.sampled_from([0.08, 0.9]))
def test_every_box_lies_in_its_image(height: int, width: int, view: int, least: float) -> None:
    recipe = Recipe("r", 16, (RandomResizedCrop(scale=(least, 1.0)), HorizontalFlip()))
    params = sample_view(recipe, "k", view, height, width)
    assert 0 <= params.top <= params.top + params.height <= height
    assert 0 <= params.left <= params.left + params.width <= width
    assert params.height >= 1
    assert params.width >= 1


@given(
    st.integers(1, 600), st.integers(1, 600), st.sampled_from([0.5, 0.875, 0.95, 1.0]), st.integers(8, 256)
)
def test_evaluation_is_torchvisions_resize_and_centre_crop(
    height: int, width: int, pct: float, size: int
) -> None:
    params = sample_view(evaluation(size, pct), "k", 3, height, width)
    resized = tvf._compute_resized_output_size((height, width), [math.floor(size / pct)])
    assert [params.resize_height, params.resize_width] == resized
    assert params.window_top == round((params.resize_height - size) / 2)
    assert (params.top, params.left, params.height, params.width) == (0, 0, height, width)
    assert not params.flip


def test_a_process_wide_decimal_context_does_not_move_a_crop() -> None:
    sampling._exact_log.cache_clear()
    with decimal.localcontext(prec=3):
        moved = [sample_view(rrc(32), "k", view, HEIGHT, WIDTH) for view in range(200)]
    sampling._exact_log.cache_clear()
    assert moved == [sample_view(rrc(32), "k", view, HEIGHT, WIDTH) for view in range(200)]


@given(st.floats(-2.8, 2.8))
def test_the_portable_exponential_is_one(x: float) -> None:
    assert _portable_exp(x) == pytest.approx(math.exp(x), rel=1e-14)
