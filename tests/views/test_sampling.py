import decimal
import itertools
import math
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from timm.data.auto_augment import rand_augment_transform
from timm.data.random_erasing import RandomErasing
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision.transforms import ColorJitter, RandomCrop
from torchvision.transforms import functional as tvf

from teacher_cache.views import sampling
from teacher_cache.views.recipe import HorizontalFlip, RandomResizedCrop, Recipe, deit, deit3, evaluation, rrc
from teacher_cache.views.sampling import ViewParams, sample_view

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
    sampling._log_bounds.cache_clear()
    with decimal.localcontext(prec=3):
        moved = [sample_view(rrc(32), "k", view, HEIGHT, WIDTH) for view in range(200)]
    sampling._log_bounds.cache_clear()
    assert moved == [sample_view(rrc(32), "k", view, HEIGHT, WIDTH) for view in range(200)]


@pytest.fixture(scope="module")
def augmented() -> list[ViewParams]:
    return [sample_view(deit(224), "key", view, HEIGHT, WIDTH) for view in range(DRAWS)]


@pytest.fixture(scope="module")
def timm_ops() -> list[list[tuple[str, float]]]:
    """timm's RandAugment, each of its ops replaced by one that writes down what it was asked for."""
    transform = rand_augment_transform("rand-m9-mstd0.5-inc1", {"translate_const": 100})
    asked: list[tuple[str, float]] = []
    for op in transform.ops:

        def record(image: object, *amount: float, name: str = op.name, **_: object) -> object:
            asked.append((TIMM_NAMES[name], amount[0] if amount else 0.0))
            return image

        op.aug_fn = record
    random.seed(0)
    np.random.seed(0)  # timm draws from it
    views = []
    for _ in range(DRAWS):
        asked.clear()
        transform(None)
        views.append(list(asked))
    return views


TIMM_NAMES = {
    "AutoContrast": "auto_contrast",
    "Equalize": "equalize",
    "Invert": "invert",
    "Rotate": "rotate",
    "PosterizeIncreasing": "posterize",
    "SolarizeIncreasing": "solarize",
    "SolarizeAdd": "solarize_add",
    "ColorIncreasing": "color",
    "ContrastIncreasing": "contrast",
    "BrightnessIncreasing": "brightness",
    "SharpnessIncreasing": "sharpness",
    "ShearX": "shear_x",
    "ShearY": "shear_y",
    "TranslateXRel": "translate_x",
    "TranslateYRel": "translate_y",
}


def same_counts(ours: list, theirs: list) -> float:
    """Return the p-value of two samples being drawn from one discrete distribution."""
    values = sorted({*ours, *theirs})
    table = np.array([[sample.count(value) for value in values] for sample in (ours, theirs)])
    return stats.chi2_contingency(table[:, table.sum(0) >= 10]).pvalue


def test_ops_are_chosen_as_timm_chooses(augmented: list[ViewParams], timm_ops: list) -> None:
    assert same_counts([len(view.ops) for view in augmented], [len(view) for view in timm_ops]) > 1e-3
    ours = [op.name for view in augmented for op in view.ops]
    theirs = [name for view in timm_ops for name, _ in view]
    assert set(ours) == set(TIMM_NAMES.values())
    assert same_counts(ours, theirs) > 1e-3
    firsts = [view.ops[0].name for view in augmented if len(view.ops) == 2]
    seconds = [view.ops[1].name for view in augmented if len(view.ops) == 2]
    table = np.array([[firsts.count(name), seconds.count(name)] for name in set(firsts)])
    assert stats.chi2_contingency(table).pvalue > 1e-3


@pytest.mark.parametrize("name", TIMM_NAMES.values())
def test_amounts_are_distributed_as_timms(name: str, augmented: list[ViewParams], timm_ops: list) -> None:
    ours = [op.amount for view in augmented for op in view.ops if op.name == name]
    theirs = [amount for view in timm_ops for other, amount in view if other == name]
    if len(set(theirs)) < 100:
        assert len(set(theirs)) == 1 == len(set(ours)) or same_counts(ours, theirs) > 1e-3
    else:
        assert stats.ks_2samp(ours, theirs).pvalue > 1e-3


@pytest.mark.slow
def test_erased_boxes_are_distributed_as_timms() -> None:
    eraser = RandomErasing(probability=0.25, mode="const", device="cpu")
    random.seed(0)
    theirs = []
    for _ in range(DRAWS):
        image = torch.ones(1, 56, 56)
        eraser(image)
        rows, columns = (np.flatnonzero(image[0].eq(0).any(axis)) for axis in (1, 0))
        if len(rows):
            theirs.append((rows[0], columns[0], len(rows), len(columns)))
    ours = [
        view.erase
        for view in (sample_view(deit(56), "key", view, HEIGHT, WIDTH) for view in range(DRAWS))
        if view.erase
    ]
    assert stats.fisher_exact([[len(ours), DRAWS], [len(theirs), DRAWS]]).pvalue > 1e-3
    for place, quantity in enumerate(("top", "left", "height", "width")):
        pair = [box[place] for box in ours], [box[place] for box in theirs]
        assert stats.ks_2samp(*pair).pvalue > 1e-3, quantity
    areas = [[box[2] * box[3] for box in boxes] for boxes in (ours, theirs)]
    assert stats.ks_2samp(*areas).pvalue > 1e-3


@pytest.fixture(scope="module")
def three_augmented() -> list[ViewParams]:
    return [sample_view(deit3(224), "key", view, HEIGHT, WIDTH) for view in range(DRAWS)]


def test_three_augment_is_a_fair_choice(three_augmented: list[ViewParams]) -> None:
    firsts = [view.ops[0] for view in three_augmented]
    counts = [sum(op.name == name for op in firsts) for name in ("color", "solarize", "gaussian_blur")]
    assert stats.chisquare(counts).pvalue > 1e-3
    assert {op.amount for op in firsts if op.name == "color"} == {0.0}
    assert {op.amount for op in firsts if op.name == "solarize"} == {128.0}
    radii = [op.amount for op in firsts if op.name == "gaussian_blur"]
    assert stats.kstest(radii, stats.uniform(0.1, 1.9).cdf).pvalue > 1e-3


def test_color_jitter_is_torchvisions(three_augmented: list[ViewParams]) -> None:
    torch.manual_seed(0)
    jitter = ColorJitter(0.3, 0.3, 0.3)
    theirs = [jitter.get_params((0.7, 1.3), (0.7, 1.3), (0.7, 1.3), None) for _ in range(DRAWS)]
    names = ("brightness", "contrast", "color")
    orders = ["".join(names[i][:2] for i in order.tolist() if i < 3) for order, *_ in theirs]
    assert same_counts(["".join(op.name[:2] for op in v.ops[1:]) for v in three_augmented], orders) > 1e-3
    for place, name in enumerate(names):
        ours = [op.amount for view in three_augmented for op in view.ops[1:] if op.name == name]
        assert stats.ks_2samp(ours, [drawn[1 + place] for drawn in theirs]).pvalue > 1e-3, name


def test_the_simple_random_crop_is_torchvisions(three_augmented: list[ViewParams]) -> None:
    resized = tvf._compute_resized_output_size((HEIGHT, WIDTH), [224])
    assert {(view.resize_height, view.resize_width) for view in three_augmented} == {tuple(resized)}
    torch.manual_seed(0)
    padded = torch.empty(3, resized[0] + 8, resized[1] + 8)
    theirs = [RandomCrop.get_params(padded, (224, 224))[:2] for _ in range(DRAWS)]
    assert same_counts([v.window_top + 4 for v in three_augmented], [top for top, _ in theirs]) > 1e-3
    lefts = [left for _, left in theirs]
    assert stats.ks_2samp([view.window_left + 4 for view in three_augmented], lefts).pvalue > 1e-3


def test_no_quantity_depends_on_another(augmented: list[ViewParams]) -> None:
    quantities = {
        "area": [view.height * view.width for view in augmented],
        "flip": [view.flip for view in augmented],
        "ops": [len(view.ops) for view in augmented],
        "erased": [view.erase is not None for view in augmented],
    }
    for (one, a), (other, b) in itertools.combinations(quantities.items(), 2):
        assert stats.spearmanr(a, b).pvalue > 1e-4, (one, other)
