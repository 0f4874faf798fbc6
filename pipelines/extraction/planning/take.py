"""Take units of a request from archives that catalogs list, instead of computing them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from pipelines.extraction.request import ExtractRequest
from teacher_cache.archive.format.calibration import copy_agreement
from teacher_cache.archive.format.layout import Unit
from teacher_cache.archive.format.manifest import Manifest
from teacher_cache.archive.format.part import Position, places, read_part, relative_stores
from teacher_cache.archive.format.receipts import Receipt
from teacher_cache.archive.format.spec import ArchiveSpec
from teacher_cache.archive.readers.read_units import fetched, fetched_shared, in_threads
from teacher_cache.archive.writers.write import ArchiveWriter
from teacher_cache.errors import InputError
from teacher_cache.program.progress import Track
from teacher_cache.sharing.catalog_file import read_catalog
from teacher_cache.storage.store import Store

_AT_ONCE = 8
"""Number of units that are fetched at once."""


class Taken(NamedTuple):
    """Number of units taken from an archive, and their size in bytes."""

    units: int
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class Shelf:
    """Archive of the request's fingerprint that a catalog lists.

    Attributes:
        units: Relative URL and receipt of each unit that it has.
    """

    store: Store
    manifest: Manifest
    units: dict[Position, tuple[str, Receipt]]

    def has(self, unit: Unit) -> bool:
        """Return whether the archive has exactly this unit."""
        _, receipt = self.units.get((unit.shard, unit.block), ("", None))
        return receipt is not None and receipt.unit == unit


def shelves_of(request: ExtractRequest, fingerprint: str) -> Iterator[Shelf]:
    """Yield the archives of a fingerprint that the request's catalogs list.

    Raises:
        ArchiveError: There is no catalog, or an archive that it lists is damaged, or not signed.
    """
    for root in request.catalogs:
        for entry in read_catalog(root).archives:
            if entry.facts.fingerprint != fingerprint:
                continue
            store = Store(f"{root.url}/{entry.path}" if entry.path else root.url)
            manifest = request.trust.manifest(store)
            if manifest.spec.fingerprint != fingerprint:
                raise InputError(
                    f"{store.url} is not what the catalog {root.url} says: it has fingerprint "
                    f"{manifest.spec.fingerprint[:12]}, not {fingerprint[:12]}",
                    "Nothing is taken from it.",
                    f"make the catalog again: teacher-cache catalog {root.url}",
                )
            yield Shelf(store, manifest, places(manifest, read_part(store, manifest)))


def as_shelved(request: ExtractRequest, asked: ArchiveSpec, shelves: Sequence[Shelf]) -> ArchiveSpec:
    """Return the spec with the views per unit of the first shelf, where the request allows them."""
    if not shelves or request.views_per_unit is not None or request.extends is not None:
        return asked
    views_per_unit = shelves[0].manifest.spec.views_per_unit
    begins_a_block = request.views.start % views_per_unit == 0
    return dataclasses.replace(asked, views_per_unit=views_per_unit) if begins_a_block else asked


def units_to_take(shelves: Sequence[Shelf], missing: Iterable[Unit]) -> list[tuple[Shelf, list[Unit]]]:
    """Return each shelf with the missing units to take from it; a unit that several have, from the first."""
    found: list[tuple[Shelf, list[Unit]]] = [(shelf, []) for shelf in shelves]
    for unit in missing if shelves else ():
        units = next((units for shelf, units in found if shelf.has(unit)), None)
        if units is not None:
            units.append(unit)
    return [(shelf, units) for shelf, units in found if units]


def of_one_basis(shelves: Sequence[Shelf], writer: ArchiveWriter) -> list[Shelf]:
    """Return the shelves whose labels have the basis of the archive, or else of the first of them."""
    if writer.spec.labels.components is None or not shelves:
        return list(shelves)
    basis = writer.shared or shelves[0].manifest.shared
    return [shelf for shelf in shelves if shelf.manifest.shared == basis]


def taken_of(shelf: Shelf, units: Sequence[Unit]) -> Taken:
    """Return the number and size of some units of a shelf."""
    sizes = (shelf.units[unit.shard, unit.block][1].num_bytes for unit in units)
    return Taken(len(units), sum(sizes))


def take(shelf: Shelf, writer: ArchiveWriter, units: Sequence[Unit], track: Track) -> Taken:
    """Copy units from a shelf into an archive, and the class affinity or basis they belong to.

    Raises:
        ArchiveError: The archive has another basis.
        DamagedError: An object does not have the sha256 in the manifest.
    """
    stores, layout = relative_stores(shelf.store, shelf.manifest), shelf.manifest.spec.layout
    taken = taken_of(shelf, units)
    if shelf.manifest.shared is not None:
        writer.put_shared(fetched_shared(shelf.store, shelf.manifest))
    copy_agreement(shelf.store, writer.store, writer.spec)

    def copy(unit: Unit) -> None:
        relative_url, receipt = shelf.units[unit.shard, unit.block]
        objects = {
            array: fetched(stores[relative_url], layout.object_name(array, unit), digest)
            for array, digest in receipt.objects.items()
        }
        writer.put_objects(unit, objects, receipt.rows, receipt.keys_sha256)
        advance(receipt.num_bytes)

    with track("take", taken.num_bytes, "bytes") as advance:
        in_threads([functools.partial(copy, unit) for unit in units], _AT_ONCE)
    return taken
