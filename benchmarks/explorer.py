"""Seconds that the explorer's pages take at the size of ImageNet: 1.28 million rows, by a fake teacher.

    python -m benchmarks.explorer

An archive of random labels is written and measured, then served by `teacher-cache view` as a user starts it,
without images. The first page is asked for once; then pages of every kind, each address for the first time.
"""

from __future__ import annotations

import dataclasses
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from msgspec import Meta
from rich.console import Console
from rich.table import Table

from benchmarks.common import write_json
from benchmarks.copies import fake_spec, write_fake_archive
from benchmarks.machine import environment
from teacher_cache.archive.figures.figures import put_figures
from teacher_cache.archive.figures.measure import measure
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.program.commandline import Command, run_single
from teacher_cache.program.flags import Flags
from teacher_cache.program.progress import console
from teacher_cache.storage.store import Store

_ROWS_A_SHARD, _VIEWS, _CLASSES, _K = 10_000, 2, 1000, 10


@dataclasses.dataclass(frozen=True)
class ExplorerConfig(Flags):
    """Time the explorer's pages of a large archive."""

    shards: Annotated[int, Meta(ge=1)] = 128
    """Shards of 10,000 rows each."""
    pages: Annotated[int, Meta(ge=1)] = 20
    """Pages of each kind."""
    seed: int = 0
    """Seed of the labels and of the choice of pages."""
    json: str | None = None
    """File for the result as JSON."""


def run_benchmark(config: ExplorerConfig) -> dict[str, Any]:
    """Return the seconds of each page by kind, of the first page, and of the server's start."""
    rng = random.Random(config.seed)
    with tempfile.TemporaryDirectory() as folder:
        url = str(Path(folder) / "labels")
        spec = fake_spec(config.shards, _ROWS_A_SHARD, _VIEWS, k=_K, num_classes=_CLASSES)
        write_fake_archive(Store(url), spec, 1, seed=config.seed)
        num_rows = config.shards * _ROWS_A_SHARD
        labels_N = np.random.default_rng(config.seed).integers(0, _CLASSES, num_rows)
        start_s = time.perf_counter()
        reader = ArchiveReader(url)
        put_figures(reader.store, spec.fingerprint, *measure(reader, labels_N, (), console))
        measured_s = time.perf_counter() - start_s
        start_s = time.perf_counter()
        command = [sys.executable, "-m", "pipelines.cli", "view", url, "--port", "0"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[0]
            started_s = time.perf_counter() - start_s
            first_s = _seconds(address)
            pages = {
                kind: [_seconds(address + one) for one in addresses]
                for kind, addresses in _addresses(config, num_rows, rng).items()
            }
        finally:
            process.kill()
            process.wait()
    return {
        "rows": num_rows,
        "measured_s": measured_s,
        "started_s": started_s,
        "first_s": first_s,
        "pages": pages,
    }


def _addresses(config: ExplorerConfig, num_rows: int, rng: random.Random) -> dict[str, list[str]]:
    """Return addresses of each kind of page; the first of each order sorts all rows."""
    found: dict[str, list[str]] = {}
    for sort in ("label", "views", "confidence", "row"):
        pages = [0, *(rng.randrange(num_rows // 24) for _ in range(config.pages - 1))]
        found[f"samples by {sort}"] = [f"samples/{sort}/all/{page}.html" for page in pages]
    classes = [rng.randrange(_CLASSES) for _ in range(config.pages)]
    found["samples of a class"] = [f"samples/label/{number}/0.html" for number in classes]
    rows = [rng.randrange(num_rows) for _ in range(config.pages)]
    found["a sample's views"] = [f"sample/{row}/0.html" for row in rows]
    found["a view"] = [f"view/{row}/{rng.randrange(_VIEWS)}.html" for row in rows[::-1]]
    found["classes"] = [f"classes/{page}.html" for page in range(min(config.pages, _CLASSES // 100))]
    found["confusions"] = ["confusions.html"]
    found["overview, again"] = ["index.html"]
    return found


def _seconds(address: str) -> float:
    start_s = time.perf_counter()
    with urllib.request.urlopen(address) as answer:
        answer.read()
    return time.perf_counter() - start_s


def _run(config: ExplorerConfig) -> int:
    found = run_benchmark(config)
    table = Table(title=f"Explorer, {found['rows']:,} rows; milliseconds a page")
    for column in ("page", "pages", "median", "slowest"):
        table.add_column(column, justify="left" if column == "page" else "right")
    table.add_row("first page", "1", "", f"{1000 * found['first_s']:,.0f}")
    for kind, seconds in found["pages"].items():
        median, slowest = statistics.median(seconds), max(seconds)
        table.add_row(kind, str(len(seconds)), f"{1000 * median:,.0f}", f"{1000 * slowest:,.0f}")
    Console(width=100).print(table)
    print(f"figures measured in {found['measured_s']:,.1f} s; server ready in {found['started_s']:,.1f} s")
    head = environment(("numpy", "pyarrow", "fastapi", "zarr"))
    print(head)
    write_json(config.json, {"benchmark": "explorer", **head, **found})
    return 0


if __name__ == "__main__":
    sys.exit(run_single("benchmarks.explorer", Command(ExplorerConfig, _run), sys.argv[1:]))
