"""Images packed a second, with crops and without, on one core and on two, beside webdataset's TarWriter.

    python -m benchmarks.pack --images FOLDER

Packing decodes every image to check it, hashes it and the shard, and writes an index; with crops it also
rewrites each JPEG and decodes it again. TarWriter only writes. Bytes are those of all shards.
Every arm is a process bound to its cores, so that "one core" is one. The arms take turns; ratios are of the
same round.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import webdataset
from msgspec import Meta
from rich.console import Console
from rich.table import Table

from benchmarks.common import write_json
from benchmarks.machine import environment
from teacher_cache.dataset.packing.pack import PackOptions, pack
from teacher_cache.dataset.sources.open import open_source
from teacher_cache.dataset.sources.source import Source
from teacher_cache.program.commandline import Command, run_single
from teacher_cache.program.flags import Flags
from teacher_cache.program.progress import silent
from teacher_cache.storage.store import Store


@dataclasses.dataclass(frozen=True)
class PackBenchmarkConfig(Flags):
    """Compare packing on one core and on two with webdataset's own TarWriter."""

    images: str
    """Class folders of images."""
    times: Annotated[int, Meta(ge=1)] = 12
    """Copies of the images that are packed, to have enough of them."""
    rounds: Annotated[int, Meta(ge=1)] = 5
    """Rounds of all arms."""
    arm: str | None = None
    """Arm to run in this process, by name; the benchmark starts itself with it."""
    json: str | None = None
    """File for the result."""


def _pack(source: Source, folder: Path, workers: int, *, crops: bool = False) -> None:
    pack(
        source,
        Store(folder),
        PackOptions(shard_size=500, workers=workers, crops=crops),
        silent,
    )


def _tar_writer(source: Source, folder: Path, workers: int) -> None:
    del workers
    folder.mkdir()
    for number, start in enumerate(range(0, len(source.samples), 500)):
        with webdataset.TarWriter(str(folder / f"{number:06d}.tar"), encoder=False) as tar:
            for sample in source.samples[start : start + 500]:
                label = str(sample.label).encode()
                tar.write({"__key__": sample.key, "jpg": sample.place.read().image, "cls": label})


ARMS: dict[str, tuple[Callable[[Source, Path, int], None], int]] = {
    "pack --no-crops, 1 core": (_pack, 1),
    "pack --no-crops, 2 cores": (_pack, 2),
    "pack, 1 core": (functools.partial(_pack, crops=True), 1),
    "pack, 2 cores": (functools.partial(_pack, crops=True), 2),
    "TarWriter, 1 core": (_tar_writer, 1),
}


_PEERS = ("pack --no-crops, 1 core", "pack --no-crops, 2 cores", "TarWriter, 1 core")


def _measure(config: PackBenchmarkConfig, arm: str) -> None:
    """Print the images a second of an arm."""
    run, cores = ARMS[arm]
    source = open_source(config.images)
    samples = [
        sample._replace(key=f"{copy}/{sample.key}")
        for copy, sample in itertools.product(range(config.times), source.samples)
    ]
    source = dataclasses.replace(source, samples=samples)
    with tempfile.TemporaryDirectory() as folder:
        _warm = [sample.place.read() for sample in source.samples[: len(source.samples) // config.times]]
        start_s = time.perf_counter()
        run(source, Path(folder) / "out", cores)
        rate = len(samples) / (time.perf_counter() - start_s)
        print(rate, sum(file.stat().st_size for file in (Path(folder) / "out").glob("*.tar")))


def _benchmark(config: PackBenchmarkConfig) -> int:
    if config.arm is not None:
        _measure(config, config.arm)
        return 0
    rates: dict[str, list[float]] = {arm: [] for arm in ARMS}
    num_bytes: dict[str, int] = {}
    cores = sorted(os.sched_getaffinity(0))
    for _, (arm, (_, count)) in itertools.product(range(config.rounds), ARMS.items()):
        words = [sys.executable, "-m", "benchmarks.pack", "--images", config.images, "--arm", arm]
        done = subprocess.run(
            ["taskset", "-c", ",".join(map(str, cores[:count])), *words, "--times", str(config.times)],
            capture_output=True,
            text=True,
            check=True,
        )
        rate, size = done.stdout.split()
        rates[arm].append(float(rate))
        num_bytes[arm] = int(size)
    headers = ("arm", "images/s, median (min to max)", *(f"over {peer}" for peer in _PEERS), "bytes")
    table = Table(*headers)
    result = {}
    for arm, found in rates.items():
        ratios = {
            peer: statistics.median(a / b for a, b in zip(found, rates[peer], strict=True)) for peer in _PEERS
        }
        text = f"{statistics.median(found):,.0f} ({min(found):,.0f} to {max(found):,.0f})"
        share = num_bytes[arm] / num_bytes["TarWriter, 1 core"]
        table.add_row(arm, text, *(f"{ratio:.2f}" for ratio in ratios.values()), f"{share:.3f}")
        result[arm] = {"images_per_s": found, "over": ratios, "bytes_over_tar_writer": share}
    Console(width=110).print(table)
    write_json(
        config.json,
        {
            "environment": environment(("simplejpeg", "webdataset", "numpy")),
            "config": dataclasses.asdict(config),
            "arms": result,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_single("python -m benchmarks.pack", Command(PackBenchmarkConfig, _benchmark), sys.argv[1:]))
