"""Holding an archive against its manifest: quick looks at names and sizes, full at every byte and label."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from teacher_cache.archive.layout import GROUP
from teacher_cache.archive.manifest import (
    MANIFEST_FILE,
    RECEIPTS,
    SPEC_FILE,
    Receipt,
    receipt_bytes,
    receipt_name,
    spec_bytes,
    zarr_documents,
)
from teacher_cache.archive.read import ArchiveReader
from teacher_cache.errors import ArchiveError
from teacher_cache.labels.codec import NO_TAIL, LabelArrays, idx_fill
from teacher_cache.progress import Track
from teacher_cache.store import Store

Level = Literal["quick", "full"]


def verify(url: str, level: Level, track: Track) -> list[str]:
    """Return what is wrong with an archive, a line each; nothing if it is sound.

    Args:
        url: The archive.
        level: "quick": documents, names and sizes. "full": also every hash, chunk and label.
        track: Shows progress.

    Raises:
        ArchiveError: There is no finished archive to look at.
    """
    reader = ArchiveReader(url)
    store = Store(url)
    problems = list(_documents(reader, store))
    with track(f"verify {level}", len(reader.receipts), "units") as advance:
        for receipt in reader.receipts:
            problems += _unit(reader, store, receipt, level)
            advance(1)
    return problems


def _documents(reader: ArchiveReader, store: Store) -> Iterator[str]:
    layout, spec = reader.spec.layout, reader.spec
    if _get(store, SPEC_FILE) != spec_bytes(spec):
        yield f"{SPEC_FILE} is not the one in the manifest"
    known = {MANIFEST_FILE, SPEC_FILE, f"{GROUP}/zarr.json"}
    for receipt in reader.receipts:
        name = receipt_name(receipt.unit)
        known.add(name)
        if _get(store, name) != receipt_bytes(receipt, spec.fingerprint):
            yield f"{name} is not the one in the manifest"
        for array in receipt.objects:
            known |= {layout.object_name(array, receipt.unit), f"{GROUP}/{array}/zarr.json"}
    for name, expected in zarr_documents(spec, reader.receipts).items():
        if _get(store, name) != expected:
            yield f"{name} does not describe the arrays in the manifest"
    for name in store.list():
        if name not in known and not name.startswith(f"{RECEIPTS}/"):
            yield f"{name} is not in the manifest"


def _unit(reader: ArchiveReader, store: Store, receipt: Receipt, level: Level) -> Iterator[str]:
    layout = reader.spec.layout
    for array, (_, size) in receipt.objects.items():
        name = layout.object_name(array, receipt.unit)
        found = store.stat(name)
        if found != size:
            yield f"{name} has {'no' if found is None else f'{found:,} of {size:,}'} bytes"
            return
    if level == "quick":
        return
    try:
        arrays = layout.decode_unit(reader.objects(receipt))
    except (ArchiveError, ValueError, RuntimeError) as error:
        yield error.value if isinstance(error, ArchiveError) else f"unit {receipt.unit.name}: {error}"
        return
    for problem in _labels(reader, receipt, arrays):
        yield f"unit {receipt.unit.name}: {problem}"


def _labels(reader: ArchiveReader, receipt: Receipt, arrays: LabelArrays) -> Iterator[str]:
    labels = reader.spec.labels
    inside = np.zeros(arrays.tail.shape, bool)
    inside[: receipt.rows, : len(receipt.unit.views)] = True
    ids = np.sort(arrays.idx[inside], axis=1)
    if (ids >= labels.num_classes).any():
        yield "a class id is not below the number of classes, or a label is missing"
    if (ids[:, 1:] == ids[:, :-1]).any():
        yield "a label has one class twice"
    if (arrays.idx[~inside] != idx_fill(labels.num_classes)).any():
        yield "there are labels outside its rows and views"
    if (arrays.dq[inside][:, 0] != 0).any():
        yield "a first rank is not its own reference"
    if labels.k == labels.num_classes and (arrays.tail[inside] != NO_TAIL).any():
        yield "a label of all classes has a tail"


def _get(store: Store, name: str) -> bytes | None:
    try:
        return store.get(name)
    except FileNotFoundError:
        return None
