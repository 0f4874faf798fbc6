"""Every op against timm's own, on the same pixels and amounts; timm's call Pillow."""

import importlib.resources
import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.data import auto_augment

from teacher_cache import images
from teacher_cache.views.ops import OPS, draw_view
from teacher_cache.views.sampling import PixelOp

FILL = (124, 116, 104)
WARP = {"resample": Image.Resampling.BICUBIC, "fillcolor": FILL}


def timm_posterize(image: Image.Image, bits: float) -> Image.Image:
    """timm's, but for 0 bits, which Pillow 13 refuses and Pillow before made black."""
    return auto_augment.posterize(image, int(bits)) if bits else Image.new("RGB", image.size)


# name -> (timm's op, amounts drawn from, largest difference in levels)
TIMM: dict[str, tuple[Callable[[Image.Image, float], Image.Image], tuple[float, float], int]] = {
    "auto_contrast": (lambda image, _: auto_augment.auto_contrast(image), (0, 0), 1),
    "equalize": (lambda image, _: auto_augment.equalize(image), (0, 0), 0),
    "invert": (lambda image, _: auto_augment.invert(image), (0, 0), 0),
    "posterize": (timm_posterize, (0, 5), 0),
    "solarize": (lambda image, amount: auto_augment.solarize(image, int(amount)), (0, 257), 0),
    "solarize_add": (lambda image, amount: auto_augment.solarize_add(image, int(amount)), (0, 129), 0),
    "brightness": (auto_augment.brightness, (0.1, 1.9), 1),
    "contrast": (auto_augment.contrast, (0.1, 1.9), 1),
    "color": (auto_augment.color, (0.0, 1.9), 1),
    "sharpness": (auto_augment.sharpness, (0.1, 1.9), 1),
    "gaussian_blur": (auto_augment.gaussian_blur, (0.1, 2.0), 1),
    "rotate": (lambda image, degrees: auto_augment.rotate(image, degrees, **WARP), (-30, 30), 1),
    "shear_x": (lambda image, slope: auto_augment.shear_x(image, slope, **WARP), (-0.3, 0.3), 1),
    "shear_y": (lambda image, slope: auto_augment.shear_y(image, slope, **WARP), (-0.3, 0.3), 1),
    "translate_x": (lambda i, share: auto_augment.translate_x_rel(i, share, **WARP), (-0.45, 0.45), 1),
    "translate_y": (lambda i, share: auto_augment.translate_y_rel(i, share, **WARP), (-0.45, 0.45), 1),
}
WHOLE = {"posterize", "solarize", "solarize_add"}


def pictures(size: int) -> list[np.ndarray]:
    """Return waves and edges, noise, and one flat colour: uint8 (size, size, 3)."""
    probe = importlib.resources.files("teacher_cache.views") / "probe_images" / "color_444.jpg"
    waves = Image.fromarray(images.decode(probe.read_bytes(), "probe"))
    noise = np.random.default_rng(size).integers(0, 256, (size, size, 3), np.uint8)
    flat = np.full((size, size, 3), (7, 128, 255), np.uint8)
    return [np.array(waves.resize((size, size))), noise, flat]


def drawn(pixels: np.ndarray, *ops: PixelOp) -> np.ndarray:
    out = np.empty_like(pixels)
    before = pixels.copy()
    draw_view(pixels, ops, FILL, out)
    assert np.array_equal(pixels, before)
    return out


def amounts_of(name: str) -> list[float]:
    low, high = TIMM[name][1]
    drawn_amounts = [random.Random(name).uniform(low, high) for _ in range(6)]
    return [float(int(amount)) if name in WHOLE else amount for amount in (low, *drawn_amounts)]


def test_every_op_has_a_reference() -> None:
    assert set(OPS) == set(TIMM)


@pytest.mark.parametrize("name", TIMM)
def test_pixels_are_timms_within_a_bound(name: str) -> None:
    theirs_of, _, bound = TIMM[name]
    for size in (64, 97):
        for pixels in pictures(size):
            for amount in amounts_of(name):
                ours = drawn(pixels, PixelOp(name, amount))
                theirs = np.asarray(theirs_of(Image.fromarray(pixels), amount)).astype(int)
                assert np.abs(ours - theirs).max() <= bound, amount


@pytest.mark.parametrize("name", TIMM)
def test_ops_in_a_row_are_each_on_its_own(name: str) -> None:
    """Composed tables and cached pictures are an optimisation, and must not show."""
    pixels = pictures(64)[0]
    op = PixelOp(name, amounts_of(name)[1])
    for other in TIMM:
        before = PixelOp(other, amounts_of(other)[2])
        assert np.array_equal(drawn(pixels, before, op), drawn(drawn(pixels, before), op)), other


@given(st.sampled_from(sorted(TIMM)), st.integers(4, 20), st.integers(0, 99))
def test_small_pictures_are_drawn_too(name: str, size: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    theirs_of, _, bound = TIMM[name]
    amount = amounts_of(name)[seed % 6]
    theirs = np.asarray(theirs_of(Image.fromarray(pixels), amount)).astype(int)
    assert np.abs(drawn(pixels, PixelOp(name, amount)) - theirs).max() <= bound


def test_no_bits_are_black() -> None:
    assert not drawn(pictures(32)[1], PixelOp("posterize", 0.0)).any()


@pytest.mark.parametrize(
    ("name", "amount"),
    [
        *((name, 1.0) for name in ("brightness", "contrast", "color", "sharpness")),
        *((name, 0.0) for name in ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")),
        ("solarize", 256.0),
    ],
)
def test_no_change_is_none(name: str, amount: float) -> None:
    for pixels in pictures(64):
        assert np.array_equal(drawn(pixels, PixelOp(name, amount)), pixels)
