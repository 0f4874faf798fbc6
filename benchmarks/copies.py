"""Faults that push and pull survive: kills at random moments, a faulty network, flipped bytes.

    python -m benchmarks.copies

An archive of many small units goes to a real S3 server and back. Each copy is killed with SIGKILL at random
moments and run again until it ends; then again through a proxy that drops, delays, cuts or answers 503 for a
tenth of the requests, and flips bits of objects. The copy must be the archive byte for byte, and no unit may
be moved twice but one for each worker and kill. The exit code is 1 if a promise did not hold.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import fsspec
import numpy as np
from msgspec import Meta
from rich.console import Console
from rich.table import Table

from benchmarks.common import write_json
from benchmarks.machine import environment
from benchmarks.remote import S3, free_port, started
from pipelines.sharing.share import ShareRequest, share
from teacher_cache.archive.format.companions import SUMS_FILE
from teacher_cache.archive.format.layout import Unit
from teacher_cache.archive.format.spec import ArchiveSpec, LabelSpec
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.archive.writers.write import ArchiveWriter
from teacher_cache.errors import DamagedError
from teacher_cache.exact.canonical import sha256_hex
from teacher_cache.labels.arrays import LabelArrays
from teacher_cache.program.commandline import Command, run_single
from teacher_cache.program.flags import Flags
from teacher_cache.program.progress import silent
from teacher_cache.storage.store import Store
from teacher_cache.views.recipe import deit

_SHARDS, _ROWS, _VIEWS, _K, _CLASSES = 6, 400, 2, 5, 100
_WORKERS = 3
_DELAY_S = 0.02
_FAULT_SHARE, _FLIP_SHARE = 0.1, 0.02
_LONGEST_WAIT_S = 0.3


@dataclasses.dataclass(frozen=True)
class CopiesConfig(Flags):
    """Disturb push and pull in every known way, and count the promises that held."""

    kills: Annotated[int, Meta(ge=0)] = 20
    """Kills of each of push and pull."""
    blocks: Annotated[int, Meta(ge=1)] = 30
    """Blocks of views in the archive, each a unit of every shard."""
    seed: int = 0
    """Seed of the moments, and of the proxy's faults."""
    json: str | None = None
    """File for the result as JSON."""


def fake_spec(
    shards: int, rows: int, views_per_unit: int, *, k: int = _K, num_classes: int = _CLASSES
) -> ArchiveSpec:
    """Return the spec of an archive whose dataset and teacher do not exist."""
    digest = sha256_hex(b"none")
    teacher: dict[str, Any] = {"model": "regnety_160", "model_kwargs": {}, "weights_sha256": digest}
    teacher |= {"num_classes": num_classes, "mean": [0.5] * 3, "std": [0.5] * 3, "precision": "float32"}
    return ArchiveSpec(
        dataset={"sha256": digest, "shards": [(sha256_hex(str(n).encode()), rows) for n in range(shards)]},
        recipe=deit(224).to_dict(),
        teacher=teacher,
        labels=LabelSpec(k, num_classes, digest),
        probe_sha256=digest,
        views_per_unit=views_per_unit,
        made_with={},
    )


def write_fake_archive(store: Store, spec: ArchiveSpec, num_blocks: int, *, seed: int = 0) -> None:
    """Write an archive of random labels."""
    writer, rng, labels = ArchiveWriter.open(store, spec), np.random.default_rng(seed), spec.labels
    for block in range(num_blocks):
        first = block * spec.views_per_unit
        for shard in range(spec.layout.num_shards):
            rows, views = spec.rows(shard), spec.views_per_unit
            firsts_RV1 = rng.integers(0, labels.num_classes, (rows, views, 1))
            steps_RV1 = rng.integers(1, labels.num_classes // labels.k, (rows, views, 1))
            numbers_RVK = (firsts_RV1 + steps_RV1 * np.arange(labels.k)) % labels.num_classes
            idx = numbers_RVK.astype(spec.layout.dtypes["idx"])
            dq = rng.integers(0, 40, idx.shape, np.uint8)
            dq[..., 0] = 0
            tail = rng.integers(60, 120, idx.shape[:2]).astype(np.uint8)
            unit = Unit(shard, block, first, first + views)
            writer.commit(unit, LabelArrays(idx, dq, tail), sha256_hex(b"keys"))
    writer.finish()


def _files(store: Store) -> dict[str, bytes]:
    """Return every file of an archive but SHA256SUMS, which the first copy adds."""
    return {name: store.get(name) for name in store.list() if name != SUMS_FILE}


def _command(what: str, source: str, destination: str) -> list[str]:
    words = [what, source, destination, "--workers", str(_WORKERS)]
    return [sys.executable, "-m", "pipelines.cli", *words]


def _receipts(url: str) -> int:
    return len(Store(url).list("receipts"))


def killed_copies(
    what: str, source: str, destination: str, environment: dict[str, str], kills: int, rng: random.Random
) -> int:
    """Run a copy until it ends, killing it at random moments after it began to write; return the kills."""
    done = 0
    while True:
        process = subprocess.Popen(
            _command(what, source, destination),
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if done < kills:
            before = _receipts(destination)
            while process.poll() is None and _receipts(destination) == before:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, _LONGEST_WAIT_S))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                done += 1
        if process.wait() == 0:
            return done


@contextlib.contextmanager
def _proxy(
    port: int, faults: float, flips: float, seed: int, log: Path | str = ""
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Lend the URL of a proxy before an S3 server, and its process."""
    here = free_port()
    process = started("faulty_proxy.py", here, port, faults, seed, _DELAY_S, flips, log)
    try:
        yield f"http://127.0.0.1:{here}", process
    finally:
        process.kill()
        process.wait()


def campaign(config: CopiesConfig) -> dict[str, Any]:
    """Run all faults, and return how often each promise was met and held, by fault."""
    rng, found = random.Random(config.seed), {}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        server = S3(folder / "s3")
        stack.callback(server.process.kill)
        log = folder / "requests"
        slow, _ = stack.enter_context(_proxy(server.port, 0, 0, config.seed, log))
        direct = {**os.environ, **server.environment}
        os.environ |= server.environment
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("copies")
        archive, url = str(folder / "archive"), "s3://copies/archive"
        spec = fake_spec(_SHARDS, _ROWS, _VIEWS)
        write_fake_archive(Store(archive), spec, config.blocks)
        expected, units = _files(Store(archive)), _SHARDS * config.blocks
        through_slow = {**direct, "AWS_ENDPOINT_URL": slow}

        kills = killed_copies("push", archive, url, through_slow, config.kills, rng)
        puts = _objects(log, "PUT")
        found["push, killed"] = _outcome(kills, Store(url), expected, puts - 3 * units)
        log.write_text("")
        pulled = str(folder / "pulled")
        kills = killed_copies("pull", url, pulled, through_slow, config.kills, rng)
        gets = _objects(log, "GET")
        found["pull, killed"] = _outcome(kills, Store(pulled), expected, gets - 3 * units)

        with _proxy(server.port, _FAULT_SHARE, _FLIP_SHARE, config.seed) as (faulty, process):
            through = {**direct, "AWS_ENDPOINT_URL": faulty}
            for what, source, destination in (
                ("push", archive, "s3://copies/faulty"),
                ("pull", url, str(folder / "faulty")),
            ):
                found[f"{what}, faulty network"] = _through_faults(
                    what, source, destination, through, expected
                )
            process.send_signal(signal.SIGTERM)
            found["faults of the network"] = _said(process)
        found["flipped bytes in the bucket"] = _flips(url, spec, rng, folder)
    return found


def _objects(log: Path, method: str) -> int:
    """Return the number of requests that moved a whole object of labels."""
    return sum(line.startswith(f"{method} ") and "/c/" in line for line in log.read_text().splitlines())


def _outcome(kills: int, store: Store, expected: dict[str, bytes], twice: int) -> dict[str, Any]:
    units_twice = -(-max(twice, 0) // 3)
    return {
        "met": kills,
        "units moved twice": units_twice,
        "held": _files(store) == expected and units_twice <= kills * _WORKERS,
    }


def _through_faults(
    what: str, source: str, destination: str, environment: dict[str, str], expected: dict[str, bytes]
) -> dict[str, Any]:
    """Run a copy through a faulty network, again while it gives up; return how often it was run."""
    runs, named = 0, 0
    while runs < 10:
        runs += 1
        done = subprocess.run(
            _command(what, source, destination),
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        named += done.stdout.count("arrived damaged")
        if done.returncode == 0:
            break
    held = _files(Store(destination)) == expected
    return {"met": runs, "damaged objects named": named, "held": held}


def _said(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    return {"what": process.stdout.read().strip()}


def _flips(url: str, spec: ArchiveSpec, rng: random.Random, folder: Path) -> dict[str, Any]:
    """Flip one byte of each of some objects in the bucket; pull must name the object."""
    store, held, met = Store(url), 0, 20
    for _ in range(met):
        receipt = rng.choice(ArchiveReader(url).receipts)
        name = spec.layout.object_name(rng.choice(spec.layout.arrays), receipt.unit)
        whole = store.get(name)
        place = rng.randrange(len(whole))
        store.put(name, whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :])
        copy = folder / "flipped"
        shutil.rmtree(copy, ignore_errors=True)
        shards = range(receipt.unit.shard, receipt.unit.shard + 1)
        try:
            share(ShareRequest(source=store, destination=Store(copy), shards=shards), silent)
        except DamagedError as error:
            held += name in error.value and not (copy / "manifest.json").exists()
        store.put(name, whole)
    return {"met": met, "held": held == met}


def _run(config: CopiesConfig) -> int:
    found = campaign(config)
    table = Table()
    for column in ("fault", "met", "held", "notes"):
        table.add_column(column)
    for fault, outcome in found.items():
        others = {name: value for name, value in outcome.items() if name not in ("met", "held")}
        notes = ", ".join(f"{name} {value}" for name, value in others.items())
        table.add_row(fault, str(outcome.get("met", "")), str(outcome.get("held", "")), notes)
    Console(width=140).print(table)
    settings = {**dataclasses.asdict(config), "json": None}
    write_json(config.json, {**environment(("s3fs", "zarr")), "config": settings, **found})
    return 0 if all(outcome.get("held", True) for outcome in found.values()) else 1


if __name__ == "__main__":
    sys.exit(run_single("benchmarks.copies", Command(CopiesConfig, _run), sys.argv[1:]))
