"""Cost of extraction over the teacher alone: engines as ratios in one run, and a Ray driver's own cost.

    python -m benchmarks.extract --json benchmarks/results/extract.json
    python -m benchmarks.extract --teacher regnety_160 --engines local --num-images 5000 --batch-size 256 \\
        --workers 14          on a GPU

The bare teacher runs its forward pass on the very batches that an extraction makes, rendered and on the
device before the clock starts. Extractions read, decode, render, label and write, and take turns with it. On
a CPU rendering uses the teacher's cores, so the ratio shows the teacher's share of the work; on a GPU it
shows how well the rest is hidden, and the goal is 0.97.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.common import interleaved, ratio, write_json, write_photographs
from benchmarks.machine import environment
from pipelines.extraction.flags import ExtractConfig
from pipelines.extraction.running.extract import extract
from teacher_cache.batches.batch import view_batch
from teacher_cache.batches.renderer import BatchRenderer
from teacher_cache.dataset.packing.pack import PackOptions, pack
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.dataset.sources.open import open_source
from teacher_cache.labelling.unit import unit_loads
from teacher_cache.models.create import resolve_device
from teacher_cache.models.kinds import TeacherSettings
from teacher_cache.models.teacher import Teacher, build_teacher
from teacher_cache.program.commandline import Command, run_single
from teacher_cache.program.progress import silent
from teacher_cache.storage.store import Store
from teacher_cache.views.recipe import load_recipe

_BARE = "bare forward"


@dataclasses.dataclass(frozen=True)
class ExtractBenchConfig:
    """Time extraction on each engine against the bare teacher on the same batches."""

    images: str | None = None
    """Class folders of JPEGs; by default synthetic photographs of 500 x 375 pixels."""
    num_images: int = 32
    """Largest number of images to use."""
    shard_size: int = 16
    """Images in a shard; with all their views they make a unit."""
    views: int = 4
    """Views of each image."""
    teacher: str = "regnety_016"
    """Name of a timm model, with random weights; take regnety_160 on a GPU, as forward passes are short."""
    recipe: str = "deit"
    """Name of a recipe, or a YAML file."""
    img_size: int = 224
    """Side of a view in pixels."""
    batch_size: int = 32
    """Views in one forward pass."""
    workers: int = 0
    """Processes that render for each teacher."""
    engines: tuple[str, ...] = ("local", "ray-1", "ray-2")
    """Engines to time: local, and ray-N for N actors."""
    options: bool = True
    """Also time the bare teacher without channels-last, and compiled."""
    repeats: int = 5
    """Repeats of each run."""
    device: str = "auto"
    """Device of the teacher; auto takes CUDA where there is one."""
    units: int = 10_000
    """Units without work, to measure the driver's own cost."""
    planned: int = 1_000_000
    """Units to plan, to measure the driver's memory."""
    json: str | None = None
    """File for the result."""


def _pack(config: ExtractBenchConfig, folder: Path) -> PackedDataset:
    if config.images is None:
        write_photographs(folder / "images", config.num_images)
    else:
        files = sorted(file for file in Path(config.images).rglob("*") if file.is_file())
        some = files[:: max(1, len(files) // config.num_images)][: config.num_images]
        for number, file in enumerate(some):  # with ten classes no affinity is calibrated
            (folder / "images" / f"class{number % 10}").mkdir(parents=True, exist_ok=True)
            shutil.copy(file, folder / "images" / f"class{number % 10}" / f"{number:05d}{file.suffix}")
    pack(
        open_source(str(folder / "images")),
        Store(folder / "packed"),
        PackOptions(shard_size=config.shard_size, workers=2),
        silent,
    )
    return PackedDataset(str(folder / "packed"))


def _flags(config: ExtractBenchConfig, dataset: PackedDataset, engine: str, out: str) -> ExtractConfig:
    kind, _, actors = engine.partition("-")
    return ExtractConfig(
        data=dataset.url,
        teacher=config.teacher,
        pretrained=False,
        out=out,
        recipe=config.recipe,
        img_size=config.img_size,
        views=f"0:{config.views}",
        topk=min(10, len(dataset.info.classes)),
        batch_size=config.batch_size,
        workers=config.workers,
        device=config.device,
        engine="ray" if kind == "ray" else "local",
        num_actors=int(actors) if actors else None,
    )


def _bare_batches(config: ExtractBenchConfig, dataset: PackedDataset) -> Iterator[torch.Tensor]:
    """Yield the pixels of every batch of an extraction, on the device."""
    renderer = BatchRenderer(dataset, load_recipe(config.recipe, config.img_size))
    device = resolve_device(config.device)
    for shard in range(len(dataset.info.shards)):
        for load in unit_loads(
            dataset.rows_of(shard), range(config.views), config.batch_size, renderer.mixing
        ):
            for batch in map(view_batch, renderer.render(load)):
                yield batch.pixels(device)


def _teacher(
    config: ExtractBenchConfig, dataset: PackedDataset, *, channels_last: bool = True, compiled: bool = False
) -> Teacher:
    settings = TeacherSettings(
        name=config.teacher,
        pretrained=False,
        device=config.device,
        channels_last=channels_last,
        compiled=compiled,
    )
    return build_teacher(settings, classes=dataset.info.class_list, img_size=config.img_size)


def _forward_s(teacher: Teacher, batches: list[torch.Tensor]) -> float:
    """Return the seconds of one pass over all batches."""
    start_s = time.perf_counter()
    for pixels_BCHW in batches:
        logits_BC = teacher.logits(pixels_BCHW)
    logits_BC.sum().item()  # waits for the device
    return time.perf_counter() - start_s


def _runs(
    config: ExtractBenchConfig, dataset: PackedDataset, splits: dict[str, list[dict[str, float]]]
) -> dict[str, Callable[[], float]]:
    batches = list(_bare_batches(config, dataset))
    teachers = {_BARE: _teacher(config, dataset)}
    if config.options:
        teachers["bare, not channels last"] = _teacher(config, dataset, channels_last=False)
        teachers["bare, compiled"] = _teacher(config, dataset, compiled=True)
    for teacher in teachers.values():
        _forward_s(teacher, batches)  # warm-up: compiles for these shapes

    def run(engine: str) -> float:
        with tempfile.TemporaryDirectory() as folder:
            report = extract(_flags(config, dataset, engine, f"{folder}/labels"), silent)
            assert report.run is not None
            actual = json.loads(Path(report.run, "report.json").read_text())["actual"]
        splits.setdefault(engine, []).append(
            {stage: actual[f"{stage}_s"] for stage in ("render", "teacher", "write")}
        )
        return report.seconds

    return {
        **{name: functools.partial(_forward_s, teacher, batches) for name, teacher in teachers.items()},
        **{f"extract {engine}": functools.partial(run, engine) for engine in config.engines},
    }


def _driver(config: ExtractBenchConfig) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.extract_driver"]
    command += [f"--units={config.units}", f"--planned={config.planned}"]
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(ended.stdout)


def _measure(config: ExtractBenchConfig) -> int:
    folder = Path(tempfile.mkdtemp())
    splits: dict[str, list[dict[str, float]]] = {}
    try:
        dataset = _pack(config, folder)
        times = interleaved(_runs(config, dataset, splits), config.repeats)
    finally:
        shutil.rmtree(folder)
    driver = _driver(config)
    views = len(dataset) * config.views
    table = Table(title=f"{config.teacher}, {views:,} views of {config.img_size} px, {config.recipe}")
    for column in ("", "views/s", "bare / it", "min", "max", "render", "teacher", "write"):
        table.add_column(column, justify="left" if not column else "right")
    shares = {}
    for name in times:
        least, median, most = ratio(times, _BARE, name)
        of_engine = splits.get(name.removeprefix("extract "), [])
        shares[name] = _shares(of_engine)
        rate = views / statistics.median(times[name])
        stages = [f"{share:.1%}" for share in shares[name].values()] or ["-"] * 3
        table.add_row(name, f"{rate:,.1f}", f"{median:.3f}", f"{least:.3f}", f"{most:.3f}", *stages)
    console = Console(width=110)
    console.print(table)
    device = resolve_device(config.device)
    print(f"on a GPU: {torch.cuda.get_device_name(device) if device.type == 'cuda' else 'not measured'}")
    print(
        f"driver: {driver['unit_ms']:.2f} ms a unit over {driver['units']:,} units without work "
        f"({driver['unit_cpu_ms']:.2f} ms of its processor); {driver['planned_mb']:,.0f} MB at "
        f"{driver['planned']:,} planned units"
    )
    write_json(
        config.json,
        {
            "environment": environment(("torch", "timm", "ray", "numpy", "zarr")),
            "config": {
                **dataclasses.asdict(config),
                "images": "folder" if config.images else None,
                "json": None,
            },
            "seconds": times,
            "bare_over_it": {name: ratio(times, _BARE, name) for name in times},
            "shares": shares,
            "driver": driver,
        },
    )
    return 0


def _shares(splits: list[dict[str, float]]) -> dict[str, float]:
    """Return the share of the workers' time in each stage, over all repeats."""
    whole_s = sum(sum(split.values()) for split in splits)
    stages = ("render", "teacher", "write") if splits else ()
    return {stage: round(sum(split[stage] for split in splits) / whole_s, 4) for stage in stages}


if __name__ == "__main__":
    sys.exit(run_single("python -m benchmarks.extract", Command(ExtractBenchConfig, _measure), sys.argv[1:]))
