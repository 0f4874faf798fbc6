"""Manifest of a finished archive, and the list of all documents that an archive holds.

    receipts/affinity.json  the class affinity, or basis.json the basis, frozen before the first unit
    receipts/agreement.json agreement with the true labels, measured before the first unit
    receipts/extends.json   units that lie in other archives, if there are any
    receipts/00012-003.json written after a unit's objects: marks the unit as finished
    manifest.json           written last: the spec, every unit with its hashes, and the views covered

All are sealed canonical JSON (canonical.py) without times, paths or host names: the same request gives the
same bytes. The fingerprint is the sha256 over everything that determines the labels. Documents come from
elsewhere: their types and ranges are checked before anything is done with them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

from teacher_cache.archive.format.documents import (
    FORMAT,
    VERSION,
    Digest,
    Sha256,
    View,
    converted,
    get_document,
    open_document,
)
from teacher_cache.archive.format.receipts import (
    EXTENDS_FILE,
    Extension,
    Receipt,
    check_receipt,
    extends_bytes,
    extensions_from_json,
    extensions_to_json,
    receipt_bytes,
    receipt_name,
    receipts_to_json,
    shared_bytes,
    shared_file,
)
from teacher_cache.archive.format.spec import SPEC_FILE, ArchiveSpec, spec_bytes, spec_of
from teacher_cache.errors import ArchiveError, DamagedError
from teacher_cache.exact.canonical import seal
from teacher_cache.storage.store import Store

MANIFEST_FILE = "manifest.json"


class _ManifestFields(TypedDict):
    fingerprint: Sha256
    spec: dict[str, Any]
    affinity: NotRequired[dict[str, Digest] | None]
    basis: NotRequired[dict[str, Digest]]
    views: list[tuple[View, View]]
    units: list[dict[str, Any]]
    extends: list[Extension]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Content of a finished archive.

    Attributes:
        spec: Request that the archive answers.
        shared: sha256 and size of each object of the class affinity or of the basis, or None.
        receipts: Receipts of the units that lie in the archive itself, in order of shard and block.
        extends: Receipts of units that lie in other archives, by the relative URLs of those archives.
    """

    spec: ArchiveSpec
    shared: dict[str, Digest] | None
    receipts: tuple[Receipt, ...]
    extends: Mapping[str, tuple[Receipt, ...]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        wanted = set(self.spec.layout.shared_arrays)
        if set(self.shared or ()) != wanted:
            raise ArchiveError(
                f"a manifest lists the shared arrays {', '.join(self.shared or ()) or 'none'}",
                f"Its spec requires {', '.join(sorted(wanted)) or 'none'}.",
                "run the same extract again: it calibrates what is missing",
            )
        seen: set[tuple[int, int]] = set()
        for receipt in self.all_receipts:
            check_receipt(self.spec, receipt)
            position = (receipt.unit.shard, receipt.unit.block)
            if position in seen:
                raise ArchiveError(
                    f"unit {receipt.unit.name} is twice in a manifest", "One would hide the other."
                )
            seen.add(position)

    @functools.cached_property
    def all_receipts(self) -> tuple[Receipt, ...]:
        """Receipts of all units, in this archive and in those it extends."""
        return (*self.receipts, *(receipt for receipts in self.extends.values() for receipt in receipts))

    @functools.cached_property
    def views(self) -> list[tuple[int, int]]:
        """Ranges [first, stop) of the views that every shard has, rising, no two of them touching."""
        return complete_views(self.spec.layout.num_shards, self.all_receipts)

    def to_bytes(self) -> bytes:
        """Return the content of manifest.json."""
        return seal(
            {
                "format": FORMAT,
                "version": VERSION,
                "fingerprint": self.spec.fingerprint,
                "spec": self.spec.to_dict(),
                self.spec.labels.shared_kind: self.shared,
                "views": self.views,
                "units": receipts_to_json(self.receipts),
                "extends": extensions_to_json(self.extends),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes, what: str) -> Manifest:
        """Read manifest.json.

        Raises:
            DamagedError: The bytes are not as they were written.
            ArchiveError: The document is of another format or version, or holds an invalid value.
        """
        fields = converted(open_document(data, what), _ManifestFields, what)
        spec = spec_of(fields, what)
        manifest = cls(
            spec,
            fields.get(spec.labels.shared_kind),
            tuple(Receipt.from_dict(unit) for unit in fields["units"]),
            extensions_from_json(fields["extends"]),
        )
        if manifest.to_bytes() != data:
            raise DamagedError(f"{what} is internally inconsistent", "Its content cannot be trusted.")
        return manifest


def documents_of(manifest: Manifest, receipts: Sequence[Receipt]) -> dict[str, bytes]:
    """Return the documents that a manifest implies by name: spec and receipts, but not Zarr's documents.

    Args:
        receipts: Receipts of the units whose objects lie in the archive's own folder.
    """
    spec = manifest.spec
    documents = {SPEC_FILE: spec_bytes(spec)}
    if manifest.shared is not None:
        documents[shared_file(spec)] = shared_bytes(manifest.shared, spec)
    if manifest.extends:
        documents[EXTENDS_FILE] = extends_bytes(manifest.extends, spec.fingerprint)
    for receipt in receipts:
        documents[receipt_name(receipt.unit)] = receipt_bytes(receipt, spec.fingerprint)
    return documents


def zarr_documents(spec: ArchiveSpec, receipts: Sequence[Receipt]) -> dict[str, bytes]:
    """Return every zarr.json by name; the group's attributes give the meaning of the arrays' numbers."""
    num_views = max((receipt.unit.stop_view for receipt in receipts), default=0)
    attributes = {"teacher_cache": {"fingerprint": spec.fingerprint, **spec.labels.to_dict()}}
    return spec.layout.metadata(num_views, attributes)


def complete_views(num_shards: int, receipts: Sequence[Receipt]) -> list[tuple[int, int]]:
    """Return the ranges [first, stop) of the views that `num_shards` shards have, rising, none touching."""
    stops: dict[int, dict[int, int]] = {}
    for receipt in receipts:
        of_block = stops.setdefault(receipt.unit.first_view, {})
        of_block[receipt.unit.shard] = max(receipt.unit.stop_view, of_block.get(receipt.unit.shard, 0))
    ranges: list[tuple[int, int]] = []
    for first, of_block in sorted(stops.items()):
        if len(of_block) < num_shards:
            continue
        stop = min(of_block.values())
        if ranges and ranges[-1][1] == first:
            ranges[-1] = (ranges[-1][0], stop)
        else:
            ranges.append((first, stop))
    return ranges


def read_manifest(store: Store) -> Manifest:
    """Read an archive's manifest.

    Raises:
        DamagedError: The manifest is not as it was written.
        ArchiveError: There is no manifest, or none that this program can read.
    """
    size = store.stat(MANIFEST_FILE)
    if size is None and store.stat(SPEC_FILE) is not None:
        raise ArchiveError(
            f"archive {store.url} is not finished: it has no {MANIFEST_FILE}",
            "Some of its labels are missing.",
            "run the same extract again; it continues where it stopped",
        )
    if size is None:
        raise ArchiveError(
            f"{store.url} is not an archive: it has no {MANIFEST_FILE}",
            "There are no labels to read.",
            "make one: teacher-cache extract",
        )
    return Manifest.from_bytes(get_document(store, MANIFEST_FILE), store.path(MANIFEST_FILE))
