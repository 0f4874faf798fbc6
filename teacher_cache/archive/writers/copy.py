"""Copy an archive, or a part of it, between stores: missing units, then documents, the manifest last.

Every object is hashed before it is written, and a unit's receipt is written after its objects. So a copy that
was stopped goes on with the next unit, and the smallest part that can be fetched and trusted is a unit
(decisions/0026).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from teacher_cache.archive.format.calibration import get_agreement
from teacher_cache.archive.format.companions import (
    SUMS_FILE,
    companions_of,
    sums_bytes,
)
from teacher_cache.archive.format.documents import get_document
from teacher_cache.archive.format.manifest import MANIFEST_FILE, Manifest, zarr_documents
from teacher_cache.archive.format.part import (
    PART_FILE,
    Part,
    Position,
    part_bytes,
    places,
    position_of,
    read_part,
    relative_stores,
)
from teacher_cache.archive.format.receipts import (
    AGREEMENT_FILE,
    EXTENDS_FILE,
    Receipt,
    extends_bytes,
    receipt_bytes,
    receipt_name,
    shared_bytes,
    shared_file,
)
from teacher_cache.archive.format.spec import SPEC_FILE, spec_bytes
from teacher_cache.archive.format.trust import ANY, Trust
from teacher_cache.archive.readers.read_units import fetched, fetched_shared, in_threads
from teacher_cache.archive.writers.copy_companions import copied_rows, kept_companions
from teacher_cache.archive.writers.destination import (
    drop_if_changed,
    part_of,
    refuse_full_folder,
    refuse_others,
    units_elsewhere,
    units_read_elsewhere,
    units_there,
)
from teacher_cache.errors import InputError
from teacher_cache.program.progress import Track
from teacher_cache.storage.store import Store


@dataclasses.dataclass(frozen=True, kw_only=True)
class CopyRequest:
    """Archive to copy, and where to.

    Attributes:
        source: Store of a finished archive, or of a part of one.
        destination: Store to copy into: empty, or with an archive of the same units.
        workers: Units that are copied at once.
        recheck: Whether to hash what the destination has already, and copy units that differ again.
        what: Name of the progress display.
        trust: Conditions that the source must fulfil.
        named: URL by which the user named the source; that of its store by default.
    """

    source: Store
    destination: Store
    workers: int = 8
    recheck: bool = False
    what: str = "copy"
    trust: Trust = ANY
    named: str | None = None


@dataclasses.dataclass(frozen=True)
class CopyReport:
    """Report of a copy.

    Attributes:
        units: Number of units that were copied.
        units_there: Number of chosen units that the destination had, itself or in an archive it refers to.
        moved_bytes: Bytes that were written, documents and companions included.
        there_bytes: Bytes of the chosen units that the destination had already.
        fetched_again: Names of objects that had wrong bytes at the first fetch, and right ones at the second.
        covers: Number of units that the destination has now.
        of: Number of units of the whole archive.
    """

    units: int
    units_there: int
    moved_bytes: int
    there_bytes: int
    fetched_again: tuple[str, ...]
    covers: int
    of: int


class _Source(NamedTuple):
    """Archive to copy: manifest, stores by relative URL, and each unit's relative URL and receipt."""

    manifest: Manifest
    stores: Mapping[str, Store]
    units: Mapping[Position, tuple[str, Receipt]]


def copy_archive(
    request: CopyRequest, choose: Callable[[Mapping[Position, Receipt]], set[Position]], track: Track
) -> CopyReport:
    """Copy the chosen units that the destination lacks, then documents and companions; return a report.

    The destination's manifest is that of the source, byte for byte. If the destination then lacks a unit, or
    holds one that the manifest places in another archive, its part.json says so. A unit of an archive that
    the source extends is not copied where a remote destination has the same unit in the same relative place.

    Args:
        choose: Function from the source's receipts by position to the positions of the units to copy.

    Raises:
        ArchiveError: There is no archive at the source; the destination holds anything else, or other labels.
        DamagedError: An object of the source does not have the sha256 in the manifest.
        InputError: No unit is chosen.
    """
    source, destination = request.source, request.destination
    manifest = request.trust.manifest(source, request.named)
    units = places(manifest, read_part(source, manifest))
    here = _Source(manifest, relative_stores(source, manifest), units)
    chosen = choose({position: receipt for position, (_, receipt) in units.items()})
    if not chosen:
        raise InputError(
            f"no unit of {source.url} is in the views, shards and classes asked for",
            "There is nothing to copy.",
            "ask for others; `teacher-cache status` shows the units that are there",
        )
    destination.sweep()
    refuse_others(destination, manifest, source)
    there = units_there(destination, manifest)
    if request.recheck:
        there -= _changed(destination, manifest, there, request.workers, track)
    elsewhere = units_elsewhere(destination, manifest, chosen - there)
    refuse_full_folder(destination, len((there | chosen) - elsewhere))
    todo = sorted(chosen - there - elsewhere)
    moved = _Moved([], [])
    moved.put(destination, {SPEC_FILE: spec_bytes(manifest.spec)})
    with track(request.what, sum(units[position][1].num_bytes for position in todo), "bytes") as advance:
        groups = _groups(todo, units, destination)
        tasks = [_copying(here, destination, group, moved, advance) for group in groups]
        in_threads(tasks, 1 if destination.batch_bytes else request.workers)
    old = units_read_elsewhere(destination, manifest)
    with destination.exclusive():
        if destination.is_local:  # another copy into this folder may have added units
            there |= units_there(destination, manifest)
        part = part_of(manifest, there | set(todo), elsewhere | old)
        _describe(request, manifest, part, moved)
    return CopyReport(
        units=len(todo),
        units_there=len(chosen) - len(todo),
        moved_bytes=sum(moved.sizes),
        there_bytes=sum(units[position][1].num_bytes for position in chosen - set(todo)),
        fetched_again=tuple(moved.again),
        covers=len(places(manifest, part)),
        of=len(manifest.all_receipts),
    )


class _Moved(NamedTuple):
    """Sizes of written objects, and names of objects fetched twice; any thread may append to these lists."""

    sizes: list[int]
    again: list[str]

    def put(self, store: Store, objects: Mapping[str, bytes]) -> None:
        """Write the objects that the store lacks or has with other bytes, and record their sizes."""
        new = {
            name: data
            for name, data in objects.items()
            if store.stat(name) != len(data) or store.get(name, len(data)) != data
        }
        store.put_many(new)
        self.sizes.extend(map(len, new.values()))


def _groups(
    todo: Sequence[Position], units: Mapping[Position, tuple[str, Receipt]], destination: Store
) -> Iterator[list[Position]]:
    """Yield groups of units to write together: one each, or up to the destination's batch size."""
    group: list[Position] = []
    group_bytes = 0
    for position in todo:
        group.append(position)
        group_bytes += units[position][1].num_bytes
        if group_bytes >= destination.batch_bytes:
            yield group
            group, group_bytes = [], 0
    if group:
        yield group


def _copying(
    source: _Source,
    destination: Store,
    group: Sequence[Position],
    moved: _Moved,
    advance: Callable[[int], None],
) -> Callable[[], None]:
    """Return a function that copies some units: their objects, then their receipts."""
    layout, fingerprint = source.manifest.spec.layout, source.manifest.spec.fingerprint

    def copy() -> None:
        objects, receipts = {}, {}
        for position in group:
            relative_url, receipt = source.units[position]
            for array, digest in receipt.objects.items():
                name = layout.object_name(array, receipt.unit)
                objects[name] = fetched(source.stores[relative_url], name, digest, moved.again)
            receipts[receipt_name(receipt.unit)] = receipt_bytes(receipt, fingerprint)
        destination.put_many({**objects, **receipts})
        moved.sizes.extend(map(len, (*objects.values(), *receipts.values())))
        advance(sum(map(len, objects.values())))

    return copy


def _changed(
    destination: Store, manifest: Manifest, there: set[Position], workers: int, track: Track
) -> set[Position]:
    """Hash the destination's units; delete the receipts of those that changed, and return these units."""
    receipts = [receipt for receipt in manifest.all_receipts if position_of(receipt) in there]
    changed: list[Position] = []

    def check(receipt: Receipt) -> None:
        if drop_if_changed(destination, manifest, receipt):
            changed.append(position_of(receipt))
        advance(receipt.num_bytes)

    with track("recheck", sum(receipt.num_bytes for receipt in receipts), "bytes") as advance:
        in_threads([functools.partial(check, receipt) for receipt in receipts], workers)
    return set(changed)


def _describe(request: CopyRequest, manifest: Manifest, part: Part | None, moved: _Moved) -> None:
    """Write the shared arrays, the documents, the companions and their checksums, then the manifest."""
    source, destination, spec = request.source, request.destination, manifest.spec
    names = {array: spec.layout.shared_name(array) for array in manifest.shared or ()}
    sizes = {names[array]: size for array, (_, size) in (manifest.shared or {}).items()}
    if request.recheck or any(destination.stat(name) != size for name, size in sizes.items()):
        shared = fetched_shared(source, manifest)
        moved.put(destination, {names[array]: data for array, data in shared.items()})
    documents = {SPEC_FILE: spec_bytes(spec), **zarr_documents(spec, manifest.all_receipts)}
    if manifest.shared is not None:
        documents[shared_file(spec)] = shared_bytes(manifest.shared, spec)
    if manifest.extends:
        documents[EXTENDS_FILE] = extends_bytes(manifest.extends, spec.fingerprint)
    if get_agreement(source, spec) is not None:
        documents[AGREEMENT_FILE] = get_document(source, AGREEMENT_FILE)
    own = [receipt for url, receipt in places(manifest, part).values() if not url]
    receipts = {receipt_name(receipt.unit): receipt_bytes(receipt, spec.fingerprint) for receipt in own}
    companions = companions_of(source)
    kept, stale = kept_companions(destination, manifest, companions)
    for name in stale:
        destination.delete(name)
    rows_sha256 = copied_rows(None if part is not None else source, destination, moved.sizes)
    sums = sums_bytes(manifest, part, {**documents, **receipts, **kept, **companions}, rows_sha256)
    last = {} if part is None else {PART_FILE: part_bytes(part, spec.fingerprint)}
    moved.put(destination, {**documents, **companions, SUMS_FILE: sums})
    moved.put(destination, last)
    moved.put(destination, {MANIFEST_FILE: manifest.to_bytes()})
    if part is None and destination.stat(PART_FILE) is not None:
        destination.delete(PART_FILE)
