"""Time of the student's step with no teacher, with cached labels, and with a live teacher, in one run.

    python -m benchmarks.step --json benchmarks/results/step.json

A step is everything a trainer waits for: read, decode and render a batch, join its labels, forward, backward,
update. The three runs see the same views in the same order, and take turns repeat by repeat.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.common import interleaved, print_steps, write_json, write_photographs
from benchmarks.machine import environment
from benchmarks.remote import served, upload
from pipelines.extraction.flags import ExtractConfig
from pipelines.extraction.running.extract import extract
from student.build import build_trainer
from student.config import TrainConfig
from student.plan import plan_run
from student.ranks import Ranks
from student.step import Trainer
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.batches.batch import ViewBatch
from teacher_cache.dataset.packing.pack import PackOptions, pack
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.dataset.sources.open import open_source
from teacher_cache.models.create import resolve_device
from teacher_cache.program.commandline import Command, run_single
from teacher_cache.program.progress import silent
from teacher_cache.storage.cache import CacheRoom
from teacher_cache.storage.store import Store
from teacher_cache.stream.plan import StreamPlan, ViewSchedule
from teacher_cache.stream.stream import ViewStream

MODES = ("no teacher", "cached labels", "live teacher")
_VIEWS = 2
_REMOTE_SHARD_SIZE, _REMOTE_WINDOW, _REMOTE_WORKERS = 32, 2, 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """Images of a benchmark, and the labels that are cached for them."""

    images: str | None = None
    """Class folders of JPEGs; by default synthetic photographs of 500 x 375 pixels."""
    cached_teacher: str = "regnety_002"
    """Name of the timm model whose labels are cached; reading them costs the same for any teacher."""
    img_size: int = 224
    """Side of a view in pixels."""
    num_images: int = 128
    """Largest number of images to use."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepConfig(LabelledImages):
    """Time the student's step with no teacher, with cached labels, and with a live teacher."""

    model: str = "deit_tiny_distilled_patch16_224"
    """Name of the student's timm model."""
    teacher: str = "regnety_160"
    """Name of the live teacher's timm model; the weights are random."""
    batch_size: int = 16
    """Views in a step."""
    steps: int = 4
    """Steps in a repeat of the two quick modes; the live teacher does one."""
    repeats: int = 9
    """Repeats of each mode."""
    components: int | None = None
    """Codes of a cached label, learned softly at temperature 3; by default hard labels are learned."""
    device: str = "auto"
    """Device of the models; auto takes CUDA where there is one."""
    torchcompile: str | None = None
    """Torch backend that compiles the student, such as inductor."""
    delay_ms: float | None = None
    """Read images and labels from an S3 server that answers this much later, and measure the waiting."""
    json: str | None = None
    """File for the result."""


def prepare(
    config: LabelledImages, folder: Path, shard_size: int = 1000, components: int | None = None
) -> tuple[PackedDataset, ArchiveReader]:
    """Pack the images into `folder`, label two views of each, and open both.

    Args:
        config: Images and labels.
        folder: Empty folder.
        shard_size: Images in a shard.
        components: Codes of a label; None for labels with a class affinity.
    """
    source = config.images
    if source is None:
        write_photographs(folder / "images", config.num_images)
        source = str(folder / "images")
    packed = str(folder / "data")
    pack(open_source(source), Store(packed), PackOptions(shard_size=shard_size, workers=2), silent)
    dataset = PackedDataset(packed)
    extract(
        ExtractConfig(
            data=packed,
            teacher=config.cached_teacher,
            pretrained=False,
            out=str(folder / "labels"),
            img_size=config.img_size,
            views=f"0:{_VIEWS}",
            topk=min(10, len(dataset.info.classes)),
            components=components,
        ),
        silent,
    )
    return dataset, ArchiveReader(str(folder / "labels"))


def _trainer(config: StepConfig, mode: str, dataset: PackedDataset, archive: ArchiveReader) -> Trainer:
    taught = "hard" if config.components is None else "soft"
    training = TrainConfig(
        data="",
        output="",
        model=config.model,
        batch_size=config.batch_size,
        distillation="none" if mode == "no teacher" else taught,
        labels=("archive",) if mode == "cached labels" else (),
        teacher=config.teacher if mode == "live teacher" else None,
        teacher_pretrained=False,
        torchcompile=config.torchcompile,
    )
    plan = plan_run(
        training, num_rows=len(dataset), rows_per_shard=dataset.info.samples_per_shard, archive_views=None
    )
    ranks = Ranks(0, 1, resolve_device(config.device))
    affinity = archive.affinity if mode == "cached labels" else None
    return build_trainer(training, dataset.info, config.img_size, plan, ranks, affinity=affinity)


def _batches(
    config: StepConfig, mode: str, dataset: PackedDataset, archive: ArchiveReader
) -> Iterator[ViewBatch]:
    plan = StreamPlan(len(dataset), dataset.info.samples_per_shard, config.batch_size, seed=0, drop_last=True)
    stream = ViewStream(
        dataset,
        archive.recipe,
        plan,
        ViewSchedule(range(_VIEWS)),
        num_batches=1_000_000,
        archive=archive if mode == "cached labels" else None,
    )
    return iter(stream.loader(0))


def _timed(trainer: Trainer, batches: Iterator[ViewBatch], steps: int) -> Callable[[], float]:
    """Return a function that does `steps` steps and returns the seconds per step."""

    def run() -> float:
        start_s = time.perf_counter()
        for _ in range(steps):
            report = trainer.update([next(batches)])
        report.loss.item()
        return (time.perf_counter() - start_s) / steps

    run()
    return run


def _benchmark(config: StepConfig) -> int:
    """Run the benchmark, print its table, and return 0."""
    if config.delay_ms is not None:
        return _benchmark_remote(config, config.delay_ms)
    with tempfile.TemporaryDirectory() as folder:
        dataset, archive = prepare(config, Path(folder), components=config.components)
        runs = {
            mode: _timed(
                _trainer(config, mode, dataset, archive),
                _batches(config, mode, dataset, archive),
                1 if mode == "live teacher" else config.steps,
            )
            for mode in MODES
        }
        times = interleaved(runs, config.repeats)
    title = f"{config.model}, {config.img_size} px, batch {config.batch_size}"
    ratios = print_steps(title, times, MODES[0])
    head = environment(("torch", "timm", "zarr", "simplejpeg", "numpy"))
    print(head)
    settings = {
        **dataclasses.asdict(config),
        "json": None,
        "images": "folder" if config.images else "synthetic",
    }
    write_json(
        config.json,
        {"benchmark": "step", **head, "config": settings, "seconds": times, "ratio_min_median_max": ratios},
    )
    return 0


def _benchmark_remote(config: StepConfig, delay_ms: float) -> int:
    """Train from an S3 server, print the share of waiting in each window of shards, and return 0."""
    with tempfile.TemporaryDirectory() as folder, served(Path(folder) / "s3", delay_ms) as bucket:
        dataset, _ = prepare(config, Path(folder), _REMOTE_SHARD_SIZE, config.components)
        for name in ("data", "labels"):
            upload(Path(folder) / name, f"{bucket}/{name}")
        room = CacheRoom(str(Path(folder) / "room"))
        there, archive = PackedDataset(f"{bucket}/data", room), ArchiveReader(f"{bucket}/labels", room)
        plan = StreamPlan(
            len(dataset),
            dataset.info.samples_per_shard,
            config.batch_size,
            seed=0,
            drop_last=True,
            window_shards=_REMOTE_WINDOW,
        )
        schedule = ViewSchedule(range(_VIEWS))
        stream = ViewStream(
            there, archive.recipe, plan, schedule, num_batches=plan.batches_per_epoch, archive=archive
        )
        trainer = _trainer(config, "cached labels", dataset, archive)
        waits: list[float] = []
        steps: list[float] = []
        batches = iter(stream.loader(_REMOTE_WORKERS))
        for _ in range(plan.batches_per_epoch):
            start_s = time.perf_counter()
            batch = next(batches)
            waits.append(time.perf_counter() - start_s)
            trainer.update([batch]).loss.item()
            steps.append(time.perf_counter() - start_s)
    size = plan.loads_per_window
    table = Table("window", "steps", "seconds", "data wait", title=f"{delay_ms:g} ms added to each request")
    for start in range(0, len(steps), size):
        part = slice(start, start + size)
        share = sum(waits[part]) / sum(steps[part])
        table.add_row(str(start // size), str(len(steps[part])), f"{sum(steps[part]):.2f}", f"{share:.1%}")
    Console(width=110).print(table)
    share = sum(waits[size:]) / sum(steps[size:])
    print(f"data wait after the first window: {share:.2%}")
    head = environment(("torch", "timm", "s3fs", "simplejpeg", "numpy"))
    print(head)
    settings = {**dataclasses.asdict(config), "json": None, "shards_per_window": _REMOTE_WINDOW}
    result = {"waits_s": waits, "steps_s": steps, "data_wait_after_first_window": share}
    write_json(config.json, {"benchmark": "step, remote", **head, "config": settings, **result})
    return 0


if __name__ == "__main__":
    torch.manual_seed(0)
    sys.exit(run_single("python -m benchmarks.step", Command(StepConfig, _benchmark), sys.argv[1:]))
