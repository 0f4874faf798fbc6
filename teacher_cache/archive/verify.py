"""Check an archive against its manifest: quick compares names and sizes, full every byte and label."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np

from teacher_cache.archive.format.calibration import get_agreement
from teacher_cache.archive.format.companions import damaged_companions, is_companion
from teacher_cache.archive.format.documents import get_document
from teacher_cache.archive.format.layout import GROUP
from teacher_cache.archive.format.manifest import MANIFEST_FILE, documents_of, zarr_documents
from teacher_cache.archive.format.part import PART_FILE
from teacher_cache.archive.format.receipts import RECEIPTS, Receipt
from teacher_cache.archive.format.trust import ANY, Trust
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.errors import ArchiveError, InputError
from teacher_cache.labels.arrays import LabelArrays, idx_fill
from teacher_cache.labels.codec import LabelRows, decode_rows
from teacher_cache.labels.encodings import ENCODINGS
from teacher_cache.program.progress import Track
from teacher_cache.storage.cache import CacheRoom
from teacher_cache.storage.store import Store

Level = Literal["quick", "full"]

_SLACK = 1e-5
"""Tolerance of a probability: float32's rounding error in the sum over the classes of a label."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """One problem of an archive.

    Attributes:
        what: Line that names the problem.
        receipt: Receipt of the unit that must be computed again, or None.
        is_shared: Whether the class affinity or the basis must be calibrated again.
    """

    what: str
    receipt: Receipt | None = None
    is_shared: bool = False

    def __str__(self) -> str:
        return self.what


def reader_to_verify(url: str, trust: Trust = ANY) -> ArchiveReader:
    """Open an archive without a cache, so that no copies are checked. Raises ArchiveError."""
    return ArchiveReader(url, CacheRoom(max_bytes=0), trust)


def verify(url: str, level: Level, track: Track) -> list[Problem]:
    """Return the problems of an archive; see `problems_of`. Raises ArchiveError if there is none to check."""
    return problems_of(reader_to_verify(url), level, track)


def problems_of(reader: ArchiveReader, level: Level, track: Track) -> list[Problem]:
    """Return the problems of an archive; none if it is sound.

    Args:
        reader: Reader of the archive, from `reader_to_verify`.
        level: "quick" checks documents, names and sizes; "full" also every hash, chunk and label.
    """
    problems = [*_documents(reader, reader.store), *_shared(reader, level)]
    stores = {store.url: store for store in map(reader.store_of, reader.receipts)}
    sizes = {url: store.sizes_if_listed() for url, store in stores.items()}
    with track(f"verify {level}", len(reader.receipts), "units") as advance:
        for receipt in reader.receipts:
            store = reader.store_of(receipt)
            listed = sizes[store.url]
            size_of = store.stat if listed is None else listed.get
            problems += _unit(reader, receipt, level, size_of)
            advance(1)
    return problems


def _documents(reader: ArchiveReader, store: Store) -> Iterator[Problem]:
    layout, spec, manifest = reader.spec.layout, reader.spec, reader.manifest
    receipts = [receipt for receipt in reader.receipts if reader.store_of(receipt) is store]
    expected = documents_of(manifest, receipts)
    for name, data in expected.items():
        if _get(store, name) != data:
            yield Problem(f"{name} is not the one in the manifest")
    try:
        get_agreement(store, spec)
    except ArchiveError as error:
        yield Problem(error.value)
    documents = zarr_documents(spec, manifest.all_receipts)
    for name, data in documents.items():
        if _get(store, name) != data:
            yield Problem(f"{name} does not describe the arrays in the manifest")
    for name in damaged_companions(store):
        yield Problem(f"{name} is not as it was written")
    known = {MANIFEST_FILE, PART_FILE, *expected, *documents, *map(layout.shared_name, layout.shared_arrays)}
    known |= {layout.object_name(array, r.unit) for r in receipts for array in r.objects}
    for name in sorted(store.sizes_if_listed() or ()):
        if name not in known and not is_companion(name) and not name.startswith(f"{RECEIPTS}/"):
            under_way = name.startswith(f"{GROUP}/") and "/c/" in name
            yield Problem(
                f"{name} is not in the manifest" + (", or of a unit under way" if under_way else "")
            )


def _shared(reader: ArchiveReader, level: Level) -> Iterator[Problem]:
    layout, manifest = reader.spec.layout, reader.manifest
    for array, (_, size) in (manifest.shared or {}).items():
        name = layout.shared_name(array)
        found = reader.store.stat(name)
        if found != size:
            yield Problem(_size_says(name, found, size), is_shared=True)
            return
    if level == "quick" or manifest.shared is None:
        return
    try:
        reader.checked_shared()
    except ArchiveError as error:
        yield Problem(error.value, is_shared=True)


def _unit(
    reader: ArchiveReader, receipt: Receipt, level: Level, size_of: Callable[[str], int | None]
) -> Iterator[Problem]:
    layout = reader.spec.layout
    for array, (_, size) in receipt.objects.items():
        name = layout.object_name(array, receipt.unit)
        found = size_of(name)
        if found != size:
            yield Problem(_size_says(name, found, size), receipt)
            return
    if level == "quick":
        return
    try:
        arrays = layout.decode_unit(reader.objects(receipt))
    except (ArchiveError, ValueError) as error:
        what = error.value if isinstance(error, ArchiveError) else f"unit {receipt.unit.name}: {error}"
        yield Problem(what, receipt)
        return
    for problem in _labels(reader, receipt, arrays):
        yield Problem(f"unit {receipt.unit.name}: {problem}", receipt)


def _size_says(name: str, found: int | None, size: int) -> str:
    return f"{name} has {'no' if found is None else f'{found:,} of {size:,}'} bytes"


def _labels(reader: ArchiveReader, receipt: Receipt, arrays: LabelArrays) -> Iterator[str]:
    labels = reader.spec.labels
    inside = np.zeros(arrays.tail.shape, bool)
    inside[: receipt.rows, : len(receipt.unit.views)] = True
    idx, values, tail = (array[inside] for array in arrays)
    ids = np.sort(idx, axis=1)
    if (ids >= labels.num_classes).any():
        yield "a class id is not below the number of classes, or a label is missing"
    if (ids[:, 1:] == ids[:, :-1]).any():
        yield "a label has one class twice"
    if (arrays.idx[~inside] != idx_fill(labels.num_classes)).any():
        yield "there are labels outside its rows and views"
    label = decode_rows(LabelArrays(idx, values, tail), labels.num_classes, labels.values)
    if label.codes_BR is not None and (label.codes_BR == -128).any():
        yield "a code is outside -127 to 127"
    if not (label.relative_logits_BK[:, 0] == 0).all():
        yield "a first rank is not its own reference"
    if not (np.diff(label.relative_logits_BK, axis=1) <= 0).all():
        yield "logits do not fall with rank"
    if not _tails_fit(label, labels.num_classes, ENCODINGS[labels.values].step / 2):
        yield "a tail is not what its label's last rank allows"
    if labels.k == labels.num_classes and (label.tail_B != 0).any():
        yield "a label of all classes has a tail"


def _tails_fit(labels: LabelRows, num_classes: int, half: float) -> bool:
    """Return whether each tail fits classes that are all at most as probable as the label's last one.

    So tail / (1 - tail) <= (C - k) times the last rank's share among the kept classes. Rounding may change
    the tail, that rank and the sum by `half`, half a step, each.
    """
    others = num_classes - labels.class_ids_BK.shape[1]
    tail_B = labels.tail_B.astype(np.float64) * np.exp(-half)
    mass_BK = np.exp(labels.relative_logits_BK.astype(np.float64))
    last_B = mass_BK[:, -1] / mass_BK.sum(1) * np.exp(2 * half)
    return bool(((tail_B >= 0) & (tail_B <= (others * last_B + _SLACK) * (1 - tail_B) + _SLACK)).all())


def _get(store: Store, name: str) -> bytes | None:
    try:
        return get_document(store, name)
    except (FileNotFoundError, InputError):
        return None
