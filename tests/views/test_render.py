"""Pixels are promised to stay: tests/golden/views.json holds parameters and digests that may never change."""

import hashlib
import importlib.resources
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional as tvf

from teacher_cache import images
from teacher_cache.errors import ImageError
from teacher_cache.views.mixing import sample_mix
from teacher_cache.views.recipe import (
    NAMED,
    HorizontalFlip,
    RandomResizedCrop,
    Recipe,
    ResizeRandomCrop,
    deit,
    evaluation,
    rrc,
)
from teacher_cache.views.render import render_crop, render_views
from teacher_cache.views.sampling import ViewParams, sample_view

GOLDEN = Path(__file__).parents[1] / "golden" / "views.json"
IMG_SIZE = 48
PROBES = {
    file.name: file.read_bytes()
    for file in (importlib.resources.files("teacher_cache.views") / "probe_images").iterdir()
}
NUM_PARAMS, NUM_DIGESTS = 64, 32


def views_of(recipe: Recipe, name: str, views: range) -> torch.Tensor:
    out_VHWC = np.empty((len(views), recipe.img_size, recipe.img_size, 3), np.uint8)
    render_views(PROBES[name], recipe, name, views, out_VHWC)
    return torch.from_numpy(out_VHWC).permute(0, 3, 1, 2)


def digest(pixels: torch.Tensor) -> str:
    return hashlib.sha256(pixels.contiguous().numpy().tobytes()).hexdigest()


def golden_values() -> dict:
    """Return what golden/views.json holds: `python tests/views/test_render.py` writes it."""
    values: dict = {}
    for recipe_name, named in NAMED.items():
        recipe = named(IMG_SIZE)
        params = [sample_view(recipe, "golden/key", view, 375, 500)._asdict() for view in range(NUM_PARAMS)]
        mixes = (
            [sample_mix(recipe, "golden/key", view) for view in range(NUM_PARAMS)] if recipe.mixing else []
        )
        names = sorted(PROBES)
        per_image = -(-NUM_DIGESTS // len(names))
        digests = {
            f"{name}:{view}": digest(views_of(recipe, name, range(view, view + 1)))
            for name in names
            for view in range(per_image)
        }
        values[recipe_name] = {"params": params, "mixes": mixes, "digests": digests}
    return json.loads(json.dumps(values))


def test_parameters_and_pixels_are_pinned() -> None:
    assert golden_values() == json.loads(GOLDEN.read_text())


def all_digests() -> dict[str, str]:
    return {
        f"{recipe_name}:{name}": digest(views_of(named(IMG_SIZE), name, range(8)))
        for recipe_name, named in NAMED.items()
        for name in sorted(PROBES)
    }


PRINT_DIGESTS = (
    f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); "
    "import json, test_render; print(json.dumps(test_render.all_digests()))"
)


@pytest.mark.slow
@pytest.mark.parametrize("cpu", ["generic", "native"])
def test_pixels_do_not_depend_on_cpu_or_process(cpu: str) -> None:
    """All loops over pixels are numba's: on a CPU without vector instructions they give the same bits."""
    environment = dict(os.environ)
    if cpu == "generic":
        environment |= {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    printed = subprocess.run(
        [sys.executable, "-c", PRINT_DIGESTS], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert json.loads(printed) == all_digests()


def test_pixels_do_not_depend_on_threads() -> None:
    here = all_digests()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert all_digests() == here
    finally:
        torch.set_num_threads(threads)


def test_pixels_do_not_depend_on_order_or_company() -> None:
    together = views_of(deit(IMG_SIZE), "color_420.jpg", range(6))
    for view in reversed(range(6)):
        assert torch.equal(
            views_of(deit(IMG_SIZE), "color_420.jpg", range(view, view + 1))[0], together[view]
        )


def test_the_global_random_state_is_neither_used_nor_moved() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = views_of(deit(IMG_SIZE), "palette.png", range(3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(views_of(deit(IMG_SIZE), "palette.png", range(3)), first)


def test_a_whole_box_of_the_views_size_is_the_image() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    out = np.empty((16, 16, 3), np.uint8)
    whole = ViewParams(0, 0, 0, 0, 16, 16, 16, 16, 0, 0, flip=False)
    render_crop(pixels, rrc(16), whole, out)
    np.testing.assert_array_equal(out, pixels)
    render_crop(pixels, rrc(16), whole._replace(flip=True), out)
    np.testing.assert_array_equal(out, pixels[:, ::-1])


def test_a_view_is_pillows_crop_and_bicubic_within_three_levels() -> None:
    # Pillow and torch round their fixed-point weights differently; research on 1,000 photographs found 2
    pixels = images.decode(PROBES["color_444.jpg"], "p")
    recipe = Recipe("r", 40, (RandomResizedCrop(),))
    out = np.empty((40, 40, 3), np.uint8)
    for view in range(8):
        params = sample_view(recipe, "p", view, *pixels.shape[:2])
        render_crop(pixels, recipe, params, out)
        box = (params.left, params.top, params.left + params.width, params.top + params.height)
        theirs = np.asarray(Image.fromarray(pixels).crop(box).resize((40, 40), Image.Resampling.BICUBIC))
        assert np.abs(out.astype(int) - theirs).max() <= 3


@given(st.integers(0, 500))
def test_a_window_over_the_edge_is_torchvisions_reflected_padding(view: int) -> None:
    pixels = images.decode(PROBES["color_444.jpg"], "p")
    recipe = Recipe("r", 40, (ResizeRandomCrop(padding_px=6), HorizontalFlip()))
    params = sample_view(recipe, "p", view, *pixels.shape[:2])
    whole = params._replace(window_top=0, window_left=0, flip=False)
    resized = torch.nn.functional.interpolate(
        torch.from_numpy(pixels)[None].permute(0, 3, 1, 2),
        size=(whole.resize_height, whole.resize_width),
        mode="bicubic",
        antialias=True,
    )
    padded = tvf.pad(resized, [6], padding_mode="reflect")
    expected = tvf.crop(padded, params.window_top + 6, params.window_left + 6, 40, 40)[0]
    out = np.empty((40, 40, 3), np.uint8)
    render_crop(pixels, recipe, params, out)
    assert torch.equal(torch.from_numpy(out).permute(2, 0, 1), expected.flip(2) if params.flip else expected)


def test_a_thread_of_an_image_is_refused_rather_than_blown_up() -> None:
    with io.BytesIO() as png:
        Image.new("RGB", (60_000, 1)).save(png, "PNG")
        data = png.getvalue()
    out = np.empty((1, 224, 224, 3), np.uint8)
    with pytest.raises(ImageError, match="15360000 x 256"):
        render_views(data, evaluation(224), "thread", [0], out)


def test_evaluation_views_are_all_the_same() -> None:
    views = views_of(evaluation(IMG_SIZE), "grey.jpg", range(3))
    assert torch.equal(views[0], views[1])
    assert torch.equal(views[0], views[2])


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(golden_values(), indent=None, separators=(",", ":")) + "\n")
