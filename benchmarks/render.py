"""Speed of rendering views, compared with other libraries' transforms: images/s of one core, ratios to timm.

    python -m benchmarks.render --images FOLDER

Every method starts from JPEG bytes in memory and ends with uint8 pixels. The process's CPU time is measured,
with methods in turn on blocks of a few images, so that a slow phase of the machine affects all of them; a
round's ratio is to timm's own transform on the original images in the same round.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.common import interleaved, ratio, write_json
from benchmarks.machine import environment
from benchmarks.render_peers import Render, peers
from teacher_cache import images
from teacher_cache.errors import InputError
from teacher_cache.jpeg.cut import cut
from teacher_cache.jpeg.header import Header, read_header, read_segments
from teacher_cache.jpeg.rewrite import rewrite
from teacher_cache.program.commandline import Command, run_single
from teacher_cache.views.ops import draw_view
from teacher_cache.views.recipe import NAMED, Recipe
from teacher_cache.views.render import render_views, resized_window
from teacher_cache.views.sampling import sample_view

_BLOCK = 50
_MAX_SIDE_PX, _QUALITY = 400, 90
_VIEWS = 8


@dataclasses.dataclass(frozen=True)
class RenderConfig:
    """Time the rendering of views, compared with timm, torchvision, OpenCV and DALI where installed."""

    images: str
    """Folder of JPEG images, searched recursively."""
    img_size: int = 224
    """Side of a view in pixels."""
    count: int = 200
    """Images to use, evenly spaced over the folder's."""
    repeats: int = 7
    """Rounds over all images, after one for warm-up."""
    json: str | None = None
    """File for the result."""

    def __post_init__(self) -> None:
        if min(self.img_size, self.count, self.repeats) < 1:
            raise InputError("--img-size, --count or --repeats below 1", "Nothing would be measured.")


def _load(config: RenderConfig) -> list[bytes]:
    files = sorted(Path(config.images).rglob("*.[jJ][pP]*[gG]"))
    chosen = [files[number * len(files) // config.count] for number in range(min(config.count, len(files)))]
    data = [file.read_bytes() for file in chosen]
    found = [image for image in data if images.extension_of(image) == "jpg"]
    if not found:
        raise InputError(f"--images {config.images} holds no JPEG image", "Nothing can be measured.")
    return found


def _ours(recipe: Recipe, num_views: int) -> Render:
    size = recipe.img_size
    out_VHWC = np.empty((num_views, size, size, 3), np.uint8)
    numbers = itertools.count()
    return lambda data: render_views(data, recipe, f"{next(numbers):08d}", range(num_views), out_VHWC)


def _for_crops(data: bytes) -> bytes:
    return rewrite(data) or data


def _reencoded(data: bytes) -> bytes:
    small = images.shrink(images.decode(data, "benchmark"), _MAX_SIDE_PX)
    return images.encode_jpeg(small, _QUALITY)


@dataclasses.dataclass(frozen=True)
class _Method:
    """Method to time: a renderer, on originals or on re-encoded images, with V views each time."""

    render: Render
    data: Sequence[bytes]
    num_views: int
    base: str


def _methods(config: RenderConfig, originals: list[bytes]) -> dict[str, _Method]:
    cuttable = [_for_crops(data) for data in originals]
    small = [_for_crops(_reencoded(data)) for data in originals]
    methods = {}
    for recipe_name in ("rrc", "deit"):
        base = f"timm {recipe_name}"
        for name, peer in peers().items():
            render = peer(config.img_size, recipe_name == "deit")
            methods[f"{name} {recipe_name}"] = _Method(render, originals, 1, base)
        recipe = NAMED[recipe_name](config.img_size)
        ours = f"teacher-cache {recipe_name}"
        methods[f"{ours}, --no-crops"] = _Method(_ours(recipe, 1), originals, 1, base)
        methods[ours] = _Method(_ours(recipe, 1), cuttable, 1, base)
        methods[f"{ours}, max side {_MAX_SIDE_PX}"] = _Method(_ours(recipe, 1), small, 1, base)
        methods[f"{ours}, {_VIEWS} views a decode"] = _Method(_ours(recipe, _VIEWS), cuttable, _VIEWS, base)
    return methods


def _seconds_a_view(methods: dict[str, _Method], repeats: int) -> dict[str, list[float]]:
    count = len(next(iter(methods.values())).data)
    times: dict[str, list[float]] = {name: [] for name in methods}
    for repeat in range(repeats + 1):
        totals = dict.fromkeys(methods, 0.0)
        for start in range(0, count, _BLOCK):
            for name, method in methods.items():
                begin_s = time.process_time()
                for number in range(start, min(start + _BLOCK, count)):
                    method.render(method.data[number])
                totals[name] += time.process_time() - begin_s
        for name, total in totals.items():
            if repeat:
                times[name].append(total / count / methods[name].num_views)
    return times


def _stages(recipe: Recipe, cuttable: list[bytes], repeats: int) -> dict[str, float]:
    """Return the median microseconds of each stage of a view, each stage on all images at once."""
    size = recipe.img_size
    out_HWC = np.empty((size, size, 3), np.uint8)
    named = [(f"{number:08d}", data) for number, data in enumerate(cuttable)]
    sizes_N = [(key, picture.height, picture.width) for key, picture in _pictures(named)]
    params_N = [sample_view(recipe, key, 0, height, width) for key, height, width in sizes_N]
    boxes_N = [(params.top, params.left, params.height, params.width) for params in params_N]
    crops_N = [picture.crop(*box) for (_, picture), box in zip(_pictures(named), boxes_N, strict=True)]
    inside_N = [
        params._replace(top=params.top - crop.top, left=params.left - crop.left)
        for params, crop in zip(params_N, crops_N, strict=True)
    ]
    views_N = [
        resized_window(crop.pixels_HWC, params, size) for crop, params in zip(crops_N, inside_N, strict=True)
    ]
    headers_N = [_header_of(data) for data in cuttable]

    def cut_out() -> None:
        for data, header, box in zip(cuttable, headers_N, boxes_N, strict=True):
            if header is not None:
                cut(data, header, *box)

    def decode() -> None:
        for (_, picture), box in zip(_pictures(named), boxes_N, strict=True):
            picture.crop(*box)

    def sample() -> None:
        for key, height, width in sizes_N:
            sample_view(recipe, key, 0, height, width)

    def resize() -> None:
        for crop, params in zip(crops_N, inside_N, strict=True):
            resized_window(crop.pixels_HWC, params, size)

    def torch_resize() -> None:
        for crop, params in zip(crops_N, inside_N, strict=True):
            bottom, right = params.top + params.height, params.left + params.width
            box_HWC = torch.from_numpy(crop.pixels_HWC[params.top : bottom, params.left : right])
            box_1CHW = box_HWC.permute(2, 0, 1)[None]
            torch.nn.functional.interpolate(box_1CHW, (size, size), mode="bicubic", antialias=True)

    def draw() -> None:
        for view, params in zip(views_N, params_N, strict=True):
            draw_view(view, params.ops, recipe.fill, out_HWC)

    def whole() -> None:
        for key, data in named:
            render_views(data, recipe, key, [0], [out_HWC])

    stages = {
        "cut": cut_out,
        "header, cut, decode": decode,
        "sample": sample,
        "crop, resize, flip": resize,
        "(torch's resize)": torch_resize,
        "ops, write": draw,
        "the whole, with erasing": whole,
    }
    seconds = interleaved({name: _cpu_time(stage) for name, stage in stages.items()}, repeats)
    return {name: statistics.median(spent) / len(cuttable) * 1e6 for name, spent in seconds.items()}


def _header_of(data: bytes) -> Header | None:
    segments = read_segments(data)
    return read_header(data, segments) if segments else None


def _pictures(named: Sequence[tuple[str, bytes]]) -> Iterator[tuple[str, images.Picture]]:
    return ((key, images.Picture(data, key)) for key, data in named)


def _cpu_time(work: Callable[[], None]) -> Callable[[], float]:
    def run() -> float:
        begin_s = time.process_time()
        work()
        return time.process_time() - begin_s

    return run


def _benchmark(config: RenderConfig) -> int:
    """Run the benchmark, print its tables, and return 0."""
    torch.set_num_threads(1)
    random.seed(0)
    np.random.seed(0)  # timm draws from NumPy's global generator
    torch.manual_seed(0)
    originals = _load(config)
    methods = _methods(config, originals)
    times = _seconds_a_view(methods, config.repeats)
    console = Console(width=110)
    table = Table(title=f"{config.img_size} px views, {len(originals)} images, {config.repeats} rounds")
    for header in ("method", "views/s/core", "ratio to timm: min", "median", "max"):
        table.add_column(header, justify="left" if header == "method" else "right")
    ratios = {}
    for name, method in methods.items():
        slowest, middle, fastest = (1 / value for value in ratio(times, name, method.base)[::-1])
        ratios[name] = (slowest, middle, fastest)
        rate = 1 / statistics.median(times[name])
        table.add_row(name, f"{rate:,.0f}", *(f"{value:.2f}" for value in ratios[name]))
    console.print(table)
    cuttable = [_for_crops(data) for data in originals]
    stages = {
        name: _stages(NAMED[name](config.img_size), cuttable, config.repeats) for name in ("rrc", "deit")
    }
    stage_table = Table(title="microseconds of CPU time a view, by stage")
    for header in ("recipe", *stages["rrc"]):
        stage_table.add_column(header, justify="left" if header == "recipe" else "right")
    for name, spent in stages.items():
        stage_table.add_row(name, *(f"{value:,.0f}" for value in spent.values()))
    console.print(stage_table)
    head = environment(("torch", "torchvision", "timm", "pillow", "simplejpeg", "numba", "numpy"))
    console.print(head)
    settings = {**dataclasses.asdict(config), "json": None, "images": len(originals)}
    write_json(
        config.json,
        {
            "benchmark": "render",
            **head,
            "config": settings,
            "seconds_a_view": times,
            "ratio_min_median_max": ratios,
            "stages_us": stages,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_single("python -m benchmarks.render", Command(RenderConfig, _benchmark), sys.argv[1:]))
