"""Faults that an archive survives: kills at random moments, flipped bytes, lost or swapped files, full disks.

    python -m benchmarks.faults

For each fault, the benchmark counts how often it occurred and how often the promise held: a killed extract,
run again, gives the archive of an undisturbed one, byte for byte; `verify --level full` finds a flipped byte,
and reading a label finds a flipped byte of that label; any other damage is found, named, and mended by
`repair`. The exit code is 1 if a promise did not hold. Runs are forked, so that none imports torch again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.fault_kills import (
    forked,
    has_ended,
    kill_between_objects_and_receipt,
    kill_worker,
    kill_writer,
    run_command_line,
)
from pipelines.archive.flags import RepairConfig
from pipelines.archive.repair import repair
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.archive.verify import verify
from teacher_cache.errors import ArchiveError, TeacherCacheError
from teacher_cache.program.commandline import Command, run_single
from teacher_cache.program.progress import silent

_CLASSES, _PER_CLASS, _SIZE = 4, 10, 32
_NOBODY = 65_534
_TMPFS_BYTES = 32_768

Tally = dict[str, list[int]]
"""Mapping of fault -> [number of times met, number of times the promise held]."""


@dataclasses.dataclass(frozen=True)
class FaultsConfig:
    """Damage an archive in every known way, and count the faults that were found and mended."""

    kills: int = 100
    """Runs to kill at a random moment."""
    flips: int = 10_000
    """Bytes to flip, one at a time."""
    seed: int = 0
    """Seed of the moments and bytes."""


@dataclasses.dataclass(frozen=True)
class _Place:
    """Folder of the campaign: a dataset, an undisturbed archive, and the commands that made it."""

    folder: Path
    data: Path
    whole: Path

    def extract(self, out: Path, workers: int = 0) -> list[str]:
        flags = {
            "data": self.data,
            "teacher": "regnety_002",
            "recipe": "rrc",
            "img-size": _SIZE,
            "views": "0:6",
            "views-per-unit": 2,
            "topk": 2,
            "batch-size": 16,
            "workers": workers,
            "out": out,
        }
        return ["extract", "--no-pretrained", *(f"--{name}={value}" for name, value in flags.items())]

    def repair(self, archive: Path) -> RepairConfig:
        return RepairConfig(str(archive), data=str(self.data), pretrained=False, batch_size=16)


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def _kills(place: _Place, count: int, rng: random.Random, tally: Tally) -> None:
    expected = _tree(place.whole)
    ways: dict[str, Callable[[int, Path, float], bool]] = {
        "killed: the whole run": kill_writer,
        "killed: a worker": kill_worker,
        "killed: between objects and receipt": kill_between_objects_and_receipt,
    }
    start_s = time.monotonic()
    run_command_line(place.extract(place.folder / "timed"))
    typical_s = time.monotonic() - start_s
    shutil.rmtree(place.folder / "timed")
    number = 0
    while number < count:
        name = list(ways)[number % len(ways)]
        out = place.folder / "killed"
        shutil.rmtree(out, ignore_errors=True)
        argv = place.extract(out, workers=1 if ways[name] is kill_worker else 0)
        pid = forked(argv)
        while not (out / "spec.json").exists() and not has_ended(pid):
            time.sleep(0.0005)
        killed = ways[name](pid, out, rng.uniform(0, 0.7 * typical_s))
        os.waitpid(pid, 0)
        if not killed:
            continue  # the run ended before the kill: draw another moment
        number += 1
        held = run_command_line(argv) == 0 and _tree(out) == expected
        _count(tally, name, held=held)


def _flips(place: _Place, count: int, rng: random.Random, tally: Tally) -> None:
    archive = place.folder / "flipped"
    shutil.copytree(place.whole, archive)
    tree = _tree(archive)
    names = sorted(tree)
    sizes = [len(tree[name]) for name in names]
    for number in range(count):
        # alternate between any byte of the archive and any byte of a random file, to reach small files too
        name = rng.choices(names, sizes)[0] if number % 2 else rng.choice(names)
        damaged = bytearray(tree[name])
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        (archive / name).write_bytes(damaged)
        _count(tally, "flipped byte, found by verify", held=_verify_finds(archive))
        if "/c/" in name:
            _count(tally, "flipped byte of a label, found by its reader", held=_reader_finds(archive, name))
        (archive / name).write_bytes(tree[name])
    _count(tally, "nothing flipped, nothing found", held=not _verify_finds(archive))


def _verify_finds(archive: Path) -> bool:
    try:
        return bool(verify(str(archive), "full", silent))
    except ArchiveError:
        return True


def _reader_finds(archive: Path, name: str) -> bool:
    """Return whether reading the labels of an object, as the stream does, raises an error."""
    try:
        reader = ArchiveReader(str(archive))
        if "affinity" in name:
            return reader.affinity is None
        shard, block = name.partition("/c/")[2].split("/")[:2]
        reader.labels(int(shard), int(block) * reader.spec.views_per_unit)
    except ArchiveError:
        return True
    return False


def _damages(place: _Place, tally: Tally) -> None:
    expected = _tree(place.whole)
    for name, (damage, named) in _DAMAGES.items():
        archive = place.folder / "damaged"
        shutil.rmtree(archive, ignore_errors=True)
        shutil.copytree(place.whole, archive)
        damage(archive)
        report = repair(place.repair(archive), silent)
        held = any(named in line for line in report.found) and not report.left
        _count(tally, f"{name}: found, named, mended", held=held and _tree(archive) == expected)


def _swap(archive: Path, one: str, other: str) -> None:
    first, second = (archive / one).read_bytes(), (archive / other).read_bytes()
    assert first != second
    (archive / one).write_bytes(second)
    (archive / other).write_bytes(first)


_IDX = "labels.zarr/idx/c/{}/{}/0"
_DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a vanished object": (lambda a: (a / _IDX.format(1, 0)).unlink(), _IDX.format(1, 0)),
    "a vanished shard folder": (lambda a: shutil.rmtree(a / "labels.zarr/dq/c/1"), "labels.zarr/dq/c/1/0/0"),
    "an object cut short": (lambda a: os.truncate(a / _IDX.format(2, 1), 9), _IDX.format(2, 1)),
    "an empty receipt": (
        lambda a: (a / "receipts/00001-001.json").write_bytes(b""),
        "receipts/00001-001.json",
    ),
    "a vanished receipt": (lambda a: (a / "receipts/00000-002.json").unlink(), "receipts/00000-002.json"),
    "a receipt of another unit": (
        lambda a: shutil.copy(a / "receipts/00000-000.json", a / "receipts/00001-000.json"),
        "receipts/00001-000.json",
    ),
    "two swapped objects": (lambda a: _swap(a, _IDX.format(0, 0), _IDX.format(1, 0)), "unit 00000-000"),
    "two swapped affinity arrays": (
        lambda a: _swap(a, "labels.zarr/affinity_dq/c/0/0", "labels.zarr/affinity_tail/c/0"),
        "affinity",
    ),
    "an empty manifest": (lambda a: (a / "manifest.json").write_bytes(b""), "manifest.json"),
    "an empty spec": (lambda a: (a / "spec.json").write_bytes(b""), "spec.json"),
    "a foreign zarr.json": (
        lambda a: shutil.copy(a / "labels.zarr/dq/zarr.json", a / "labels.zarr/idx/zarr.json"),
        "labels.zarr/idx/zarr.json",
    ),
}


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[Path | None]:
    """Lend a file system of a few pages, or None if none can be mounted."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={_TMPFS_BYTES}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def _places_that_refuse(place: _Place, tally: Tally) -> None:
    expected = _tree(place.whole)
    with _small_disk(place.folder / "small") as disk:
        if disk is not None:
            out, grown = disk / "out", place.folder / "grown"
            failed = run_command_line(place.extract(out))
            shutil.copytree(out, grown)
            held = failed == 1 and run_command_line(place.extract(grown)) == 0 and _tree(grown) == expected
            _count(tally, "full disk: exit 1, then whole", held=held)
    if os.geteuid() == 0:
        locked = place.folder / "locked"
        shutil.copytree(place.whole, locked)
        for name in ("manifest.json", "receipts/00000-000.json"):
            (locked / name).unlink()
        before = _tree(locked)
        place.folder.chmod(0o755)
        refused = run_command_line(place.extract(locked), uid=_NOBODY)
        held = refused == 2 and _tree(locked) == before and run_command_line(place.extract(locked)) == 0
        _count(tally, "read-only folder: exit 2, then whole", held=held and _tree(locked) == expected)
    shard = place.data / "shard-000001.tar"
    shard.rename(shard.with_suffix(".away"))
    out = place.folder / "no-shard"
    refused = run_command_line(place.extract(out))
    shard.with_suffix(".away").rename(shard)
    held = refused == 2 and run_command_line(place.extract(out)) == 0 and _tree(out) == expected
    _count(tally, "a vanished image shard: exit 2, then whole", held=held)


def _count(tally: Tally, fault: str, *, held: bool) -> None:
    numbers = tally.setdefault(fault, [0, 0])
    numbers[0] += 1
    numbers[1] += held


def _prepare(folder: Path) -> _Place:
    rng = np.random.default_rng(0)
    for label in range(_CLASSES):
        (folder / "images" / f"class{label}").mkdir(parents=True)
        for number in range(_PER_CLASS):
            pixels_HWC = rng.integers(0, 256, (40, 48, 3), np.uint8)
            Image.fromarray(pixels_HWC).save(folder / "images" / f"class{label}" / f"{label}-{number}.png")
    place = _Place(folder, folder / "packed", folder / "whole")
    for argv in (
        ["pack", str(folder / "images"), str(place.data), "--shard-size", "16"],
        place.extract(place.whole),
    ):
        if run_command_line(argv) != 0:
            raise TeacherCacheError(f"{argv[0]} failed", "There is nothing to disturb.")
    return place


def _campaign(config: FaultsConfig) -> int:
    rng, tally = random.Random(config.seed), Tally()
    with tempfile.TemporaryDirectory() as folder:
        place = _prepare(Path(folder))
        _kills(place, config.kills, rng, tally)
        _places_that_refuse(place, tally)
        torch.set_num_threads(1)  # torch may be used only from here on: no process is forked any more
        _damages(place, tally)
        _flips(place, config.flips, rng, tally)
    table = Table()
    for column in ("fault", "met", "promise held"):
        table.add_column(column, justify="left" if column == "fault" else "right")
    for fault, (met, held) in tally.items():
        table.add_row(fault, f"{met:,}", f"{held:,}")
    Console(width=100).print(table)
    return 0 if all(met == held for met, held in tally.values()) else 1


if __name__ == "__main__":
    sys.exit(run_single("benchmarks.faults", Command(FaultsConfig, _campaign), sys.argv[1:]))
