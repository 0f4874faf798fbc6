"""Cost of the stream over rendering alone: read, hash, decode, view, label, collate, hand over.

    python -m benchmarks.stream --images FOLDER

As many processes as the loader has workers render views of images in memory, and do nothing else: their total
rate is the limit of the cores. A main process then takes batches of the same recipe with labels from the
stream, and does nothing with them. Both are wall-clock rates, measured in turn.
"""

from __future__ import annotations

import dataclasses
import itertools
import multiprocessing
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.common import interleaved, write_json
from benchmarks.machine import environment
from pipelines.extraction.flags import ExtractConfig
from pipelines.extraction.running.extract import extract
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.batches.batch import ViewBatch
from teacher_cache.dataset.packing.pack import PackOptions, pack
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.dataset.sources.open import open_source
from teacher_cache.errors import InputError
from teacher_cache.program.commandline import Command, run_single
from teacher_cache.program.progress import silent
from teacher_cache.storage.store import Store
from teacher_cache.stream.plan import StreamPlan, ViewSchedule
from teacher_cache.stream.stream import ViewStream
from teacher_cache.views.recipe import Recipe
from teacher_cache.views.render import render_views

_VIEWS = 2
_SETTLE_S = 3.0


@dataclasses.dataclass(frozen=True)
class StreamConfig:
    """Time the stream end to end, compared with rendering alone on as many cores."""

    images: str
    """Folder of class folders of images."""
    recipe: str = "deit"
    """Name of a recipe, or a YAML file."""
    img_size: int = 224
    """Side of a view in pixels."""
    batch_size: int = 64
    """Views in a batch."""
    workers: int = 2
    """Processes that render views."""
    batches: int = 32
    """Batches in a round."""
    repeats: int = 9
    """Rounds to time."""
    json: str | None = None
    """File for the result."""

    def __post_init__(self) -> None:
        if min(self.img_size, self.batch_size, self.workers, self.batches, self.repeats) < 1:
            raise InputError("a number below 1", "Nothing would be measured.")


def _prepare(config: StreamConfig, folder: Path) -> tuple[PackedDataset, ArchiveReader]:
    data, labels = str(folder / "data"), str(folder / "labels")
    pack(
        open_source(config.images),
        Store(data),
        PackOptions(shard_size=256, crops=True),
        silent,
    )
    flags = ExtractConfig(
        data=data,
        teacher="regnety_002",
        out=labels,
        pretrained=False,
        recipe=config.recipe,
        img_size=config.img_size,
        views=f"0:{_VIEWS}",
        topk=5,
    )
    extract(flags, silent)
    return PackedDataset(data), ArchiveReader(labels)


def _render_for_ever(dataset: PackedDataset, recipe: Recipe, share: range, done: object, go: object) -> None:
    """Render the rows of a share over and over, counting views, while `go` is set."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    encoded = [(dataset.index.key(row), bytes(dataset.image_bytes(row))) for row in share]
    out_VHWC = np.empty((1, recipe.img_size, recipe.img_size, 3), np.uint8)
    for view in itertools.count():
        for key, image in encoded:
            go.wait()  # type: ignore[attr-defined]
            render_views(image, recipe, key, [view], out_VHWC)
            done.value += 1  # type: ignore[attr-defined]


def _rendering_rate(config: StreamConfig, dataset: PackedDataset, recipe: Recipe) -> Callable[[], float]:
    context = multiprocessing.get_context("fork")
    go = context.Event()
    counts = [context.Value("q", 0, lock=False) for _ in range(config.workers)]
    for number, done in enumerate(counts):
        share = range(number, len(dataset), config.workers)
        context.Process(target=_render_for_ever, args=(dataset, recipe, share, done, go), daemon=True).start()

    def rate() -> float:
        wanted = config.batches * config.batch_size
        go.set()
        before, start_s = sum(done.value for done in counts), time.perf_counter()
        while sum(done.value for done in counts) - before < wanted:
            time.sleep(0.005)
        found = (sum(done.value for done in counts) - before) / (time.perf_counter() - start_s)
        go.clear()
        return found

    rate()
    return rate


def _stream_rate(config: StreamConfig, dataset: PackedDataset, archive: ArchiveReader) -> Callable[[], float]:
    plan = StreamPlan(len(dataset), dataset.info.samples_per_shard, config.batch_size, seed=0, drop_last=True)
    schedule = ViewSchedule(range(_VIEWS))
    stream = ViewStream(dataset, archive.recipe, plan, schedule, num_batches=1_000_000, archive=archive)
    batches = iter(stream.loader(config.workers))
    _consume(batches, plan.batches_per_epoch * config.workers)  # every worker hashes its objects once
    time.sleep(_SETTLE_S)

    def rate() -> float:
        _consume(batches, 6 * config.workers)  # batches that were ready before the clock starts
        start_s = time.perf_counter()
        _consume(batches, config.batches)
        found = config.batches * config.batch_size / (time.perf_counter() - start_s)
        time.sleep(_SETTLE_S)  # the workers fill their queues, then wait
        return found

    return rate


def _consume(batches: Iterator[ViewBatch], count: int) -> None:
    for _ in range(count):
        next(batches)


def _benchmark(config: StreamConfig) -> int:
    """Run the benchmark, print its table, and return 0."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        dataset, archive = _prepare(config, Path(folder))
        runs = {
            "rendering alone": _rendering_rate(config, dataset, archive.recipe),
            "stream, end to end": _stream_rate(config, dataset, archive),
        }
        rates = interleaved(runs, config.repeats)
    shares = [
        ours / alone
        for ours, alone in zip(rates["stream, end to end"], rates["rendering alone"], strict=True)
    ]
    table = Table(title=f"{config.recipe}, {config.img_size} px, {config.workers} processes; views/s")
    for header in ("what", "min", "median", "max"):
        table.add_column(header, justify="left" if header == "what" else "right")
    for name, found in rates.items():
        table.add_row(
            name, *(f"{value:,.0f}" for value in (min(found), statistics.median(found), max(found)))
        )
    spread = (min(shares), statistics.median(shares), max(shares))
    table.add_row("stream's share of rendering alone", *(f"{value:.3f}" for value in spread))
    console = Console(width=110)
    console.print(table)
    head = environment(("torch", "simplejpeg", "numba", "numpy", "zarr"))
    console.print(head)
    settings = {**dataclasses.asdict(config), "json": None, "images": len(dataset)}
    result = {"views_per_s": rates, "share_min_median_max": spread}
    write_json(config.json, {"benchmark": "stream", **head, "config": settings, **result})
    return 0


if __name__ == "__main__":
    sys.exit(run_single("python -m benchmarks.stream", Command(StreamConfig, _benchmark), sys.argv[1:]))
