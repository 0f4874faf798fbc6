"""Archives of ImageNet's size, with a faked teacher: objects, planning, resuming, reading, memory.

    python -m benchmarks.scale

Objects and bytes follow from the layout. Planning and scanning for a resume are timed over archives whose
receipts are real and whose objects are sparse files of the receipts' sizes, which use no disk.
Opening and reading are timed over a real archive of 10,000 rows x 32 views x k = 10 of random labels.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from msgspec import Meta
from rich.console import Console
from rich.table import Table

from benchmarks.common import write_json
from benchmarks.machine import environment
from pipelines.extraction.queue import MissingUnits, default_views_per_unit
from teacher_cache.archive.format.layout import Layout, Unit
from teacher_cache.archive.format.manifest import Manifest
from teacher_cache.archive.format.receipts import Receipt, receipt_bytes, receipt_name
from teacher_cache.archive.format.spec import ArchiveSpec, LabelSpec
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.archive.writers.write import ArchiveWriter
from teacher_cache.labels.affinity_rule import affinity_rule
from teacher_cache.labels.arrays import LabelArrays
from teacher_cache.labels.codec import encode
from teacher_cache.labels.topk import labels_from_logits
from teacher_cache.models.teacher import TeacherSpec
from teacher_cache.program.commandline import Command, run_single
from teacher_cache.program.flags import Flags
from teacher_cache.storage.store import MAX_OBJECT_BYTES, Store

_DIGEST = "0" * 64
_ROWS_PER_SHARD = 5000
_REPEATS = 5


@dataclasses.dataclass(frozen=True)
class ScaleConfig(Flags):
    """Count and time archives of the size of ImageNet-1k and ImageNet-21k."""

    json: str | None = None
    """File for the result."""
    rows: Annotated[int, Meta(ge=1)] = 10_000
    """Rows of the archive to read."""


class _Case:
    """A dataset, and the views and classes of its labels."""

    def __init__(self, rows: int, classes: int, views: int, k: int, bytes_per_label: float) -> None:
        self.views, self.bytes_per_label = views, bytes_per_label
        shards = [(_DIGEST, min(_ROWS_PER_SHARD, rows - n)) for n in range(0, rows, _ROWS_PER_SHARD)]
        self.spec = _spec(shards, classes, k, default_views_per_unit(views))
        self.units = list(self.spec.layout.units(0, views))

    def receipts(self) -> Iterator[Receipt]:
        layout = self.spec.layout
        for unit in self.units:
            rows = self.spec.rows(unit.shard)
            size = round(rows * len(unit.views) * self.bytes_per_label / 3)
            yield Receipt(unit, rows, _DIGEST, dict.fromkeys(layout.arrays, (_DIGEST, size)))


CASES = {
    "IN-1k x 300, k = 10": lambda: _Case(1_281_167, 1000, 300, 10, 16.0),
    "IN-21k x 90, k = 10": lambda: _Case(14_197_122, 21_841, 90, 10, 20.0),
}


def _spec(shards: list[tuple[str, int]], classes: int, k: int, views_per_unit: int) -> ArchiveSpec:
    labels = LabelSpec(
        k, classes, _DIGEST, affinity=affinity_rule(k, classes, sum(count for _, count in shards))
    )
    dataset: Any = {"sha256": _DIGEST, "shards": shards}
    teacher = TeacherSpec("fake", {}, _DIGEST, classes, (0.5,) * 3, (0.5,) * 3, "float32").to_dict()
    return ArchiveSpec(dataset, {}, teacher, labels, _DIGEST, views_per_unit, {})


def _timed(work: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    work()
    return time.perf_counter() - start_s


def _peak_mib(work: Callable[[], object]) -> float:
    """Return the peak memory of Python during a function call, in MiB."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def _at_scale(name: str, folder: Path) -> dict[str, Any]:
    case = CASES[name]()
    layout: Layout = case.spec.layout
    store = Store(folder)
    writer = ArchiveWriter.open(store, case.spec)
    for receipt in case.receipts():
        for array, (_, size) in receipt.objects.items():
            path = folder / layout.object_name(array, receipt.unit)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.truncate(size)
        path = folder / receipt_name(receipt.unit)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(receipt_bytes(receipt, case.spec.fingerprint))
    finished: list[Unit] = []
    scan_s = _timed(lambda: finished.extend(receipt.unit for receipt in writer.receipts()))
    plan_s = _timed(lambda: list(MissingUnits(layout, range(case.views), finished)))
    affinity = dict.fromkeys(("affinity_idx", "affinity_dq", "affinity_tail"), (_DIGEST, 1))
    manifest = Manifest(case.spec, affinity, tuple(case.receipts())).to_bytes()
    open_s = statistics.median(
        _timed(lambda: Manifest.from_bytes(manifest, "manifest.json")) for _ in range(_REPEATS)
    )

    def drive() -> None:
        there = ArchiveWriter.open(store, CASES[name]().spec).receipts()
        list(MissingUnits(layout, range(case.views), [receipt.unit for receipt in there]))

    labels = sum(count for _, count in case.spec.dataset["shards"]) * case.views
    return {
        "labels": labels,
        "units": len(case.units),
        "objects": len(case.units) * len(layout.arrays),
        "files": sum(1 for file in folder.rglob("*") if file.is_file()),
        "label_gigabytes": labels * case.bytes_per_label / 1e9,
        "manifest_megabytes": len(manifest) / 1e6,
        "manifest_open_s": open_s,
        "resume_scan_s": scan_s,
        "plan_s": plan_s,
        "driver_mib": _peak_mib(drive),
    }


def _reading(config: ScaleConfig, folder: Path) -> dict[str, Any]:
    spec = _spec([(_DIGEST, config.rows)], 1000, 10, 32)
    writer = ArchiveWriter.open(Store(folder), spec)
    generator = torch.Generator().manual_seed(0)
    parts = [
        encode(labels_from_logits(4 * torch.randn(config.rows, 1000, generator=generator), 10), 1000, "q8")
        for _ in range(32)
    ]
    arrays = LabelArrays(*(np.stack(part, axis=1) for part in zip(*parts, strict=True)))
    writer.freeze_shared(
        encode(labels_from_logits(torch.randn(1001, 1000, generator=generator), 128), 1000, "q8")
    )
    (unit,) = spec.layout.units(0, 32)
    writer.commit(unit, arrays, _DIGEST)
    writer.finish()
    url = str(folder)
    open_s = [_timed(lambda: ArchiveReader(url).check_zarr()) for _ in range(_REPEATS)]
    reader = ArchiveReader(url)
    first_s = _timed(lambda: reader.labels(0, 0))
    views_s = [_timed(lambda view=view: reader.labels(0, view)) for view in range(32)]  # type: ignore[misc]
    read = _bytes_read(reader)
    return {
        "object_bytes": reader.num_bytes,
        "open_s": open_s,
        "first_view_s": first_s,
        "view_s": statistics.median(views_s),
        "bytes_read_for_a_view": read,
    }


def _bytes_read(reader: ArchiveReader) -> int:
    """Return the bytes that one view reads from the store, once its unit was hashed."""
    read = 0
    get_range, get = reader.store.get_range, reader.store.get

    def counted_range(name: str, start: int, stop: int) -> bytes:
        nonlocal read
        read += stop - start
        return get_range(name, start, stop)

    def counted(name: str, max_bytes: int = MAX_OBJECT_BYTES) -> bytes:
        nonlocal read
        data = get(name, max_bytes)
        read += len(data)
        return data

    reader.store.get_range, reader.store.get = counted_range, counted  # type: ignore[method-assign]
    reader.labels(0, 9)
    return read


def _run(config: ScaleConfig) -> int:
    result: dict[str, Any] = {"environment": environment(("zarr", "numcodecs", "msgspec"))}
    console = Console(width=110)
    with tempfile.TemporaryDirectory() as folder:
        result["reading"] = found = _reading(config, Path(folder, "real"))
        console.print(
            f"{config.rows:,} rows x 32 views x k = 10, {found['object_bytes']:,} bytes: opens in "
            f"{1e3 * statistics.median(found['open_s']):.1f} ms, first view (the whole unit hashed) "
            f"{1e3 * found['first_view_s']:.1f} ms, any other {1e3 * found['view_s']:.1f} ms, "
            f"reading {found['bytes_read_for_a_view']:,} bytes"
        )
        table = Table()
        table.add_column("")
        result["scale"] = {}
        for number, name in enumerate(CASES):
            table.add_column(name, justify="right")
            result["scale"][name] = _at_scale(name, Path(folder, str(number)))
    columns = list(result["scale"].values())
    for row in columns[0]:
        cells = [
            f"{column[row]:,}" if isinstance(column[row], int) else f"{column[row]:,.3f}"
            for column in columns
        ]
        table.add_row(row.replace("_", " "), *cells)
    console.print(table)
    write_json(config.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(run_single("benchmarks.scale", Command(ScaleConfig, _run), sys.argv[1:]))
