"""Part of an archive: a copy with the whole archive's manifest, but only some of its units.

part.json   the sha256 of the manifest, the units whose objects lie in the folder, and those that lie
            in another archive, as the manifest says; absent where every unit is where the manifest says
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypedDict

from teacher_cache.archive.format.documents import FORMAT, VERSION, Place, Sha256, converted, get_document
from teacher_cache.archive.format.manifest import Manifest, complete_views
from teacher_cache.archive.format.receipts import Receipt, document_of_archive
from teacher_cache.errors import ArchiveError
from teacher_cache.exact.canonical import seal, sha256_hex
from teacher_cache.storage.store import Store

PART_FILE = "part.json"

Position = tuple[int, int]
"""Image shard and block of views of a unit."""


class _PartFields(TypedDict):
    manifest_sha256: Sha256
    here: list[tuple[Place, Place]]
    elsewhere: list[tuple[Place, Place]]


@dataclasses.dataclass(frozen=True)
class Part:
    """Units of an archive that a copy of it has.

    Attributes:
        manifest_sha256: sha256 of the manifest that lists the units.
        here: Units whose objects lie in the copy's own folder, also if the manifest names another archive.
        elsewhere: Units whose objects lie in the archive that the manifest names.
    """

    manifest_sha256: str
    here: frozenset[Position]
    elsewhere: frozenset[Position]


def position_of(receipt: Receipt) -> Position:
    """Return the image shard and block of a receipt's unit."""
    return receipt.unit.shard, receipt.unit.block


def part_bytes(part: Part, fingerprint: str) -> bytes:
    """Return the content of part.json."""
    fields = {"manifest_sha256": part.manifest_sha256}
    lists = {"here": sorted(part.here), "elsewhere": sorted(part.elsewhere)}
    return seal({"format": FORMAT, "version": VERSION, "fingerprint": fingerprint, **fields, **lists})


def read_part(store: Store, manifest: Manifest) -> Part | None:
    """Read part.json; return None if it is absent: every unit is where the manifest says.

    Raises:
        ArchiveError: The document is damaged, or belongs to another manifest.
    """
    if store.stat_optional(PART_FILE) is None:
        return None
    data = get_document(store, PART_FILE)
    what = store.path(PART_FILE)
    document = document_of_archive(data, what, manifest.spec)
    fields = converted({name: document.get(name) for name in _PartFields.__annotations__}, _PartFields, what)
    if fields["manifest_sha256"] != sha256_hex(manifest.to_bytes()):
        raise ArchiveError(
            f"{what} belongs to another manifest",
            "A copy stopped before it wrote both, so it is unknown which units this folder holds.",
            "run the same pull or push again",
        )
    here, elsewhere = frozenset(fields["here"]), frozenset(fields["elsewhere"])
    known = {position_of(receipt) for receipt in manifest.all_receipts}
    named = {position_of(receipt) for receipts in manifest.extends.values() for receipt in receipts}
    if not here <= known or not elsewhere <= named - here:
        raise ArchiveError(
            f"{what} lists units in places where the manifest does not have them",
            "Labels of these units could not be verified.",
            "run the same pull or push again",
        )
    return Part(fields["manifest_sha256"], here, elsewhere)


def places(manifest: Manifest, part: Part | None) -> dict[Position, tuple[str, Receipt]]:
    """Return, by position, the relative URL of each unit's archive ("" for this one), and its receipt.

    Args:
        part: Part that the copy has; None for the whole archive.
    """
    found: dict[Position, tuple[str, Receipt]] = {}
    for relative_url, receipts in {"": manifest.receipts, **manifest.extends}.items():
        for receipt in receipts:
            position = position_of(receipt)
            if part is None or position in part.elsewhere:
                found[position] = (relative_url, receipt)
            elif position in part.here:
                found[position] = ("", receipt)
    return found


def coverage(manifest: Manifest, receipts: Sequence[Receipt]) -> tuple[list[int], tuple[int, ...] | None]:
    """Return the views that every labelled shard has, and these shards (None for all), both ascending.

    Args:
        receipts: Receipts of the units that a copy has.
    """
    shards = sorted({receipt.unit.shard for receipt in receipts})
    num_shards = manifest.spec.layout.num_shards
    if len(receipts) == len(manifest.all_receipts):
        return _listed(manifest.views), None
    ranges = complete_views(len(shards), receipts)
    return _listed(ranges), tuple(shards) if len(shards) < num_shards else None


def _listed(ranges: Sequence[tuple[int, int]]) -> list[int]:
    return [view for first, stop in ranges for view in range(first, stop)]


def refuse_part(store: Store, doing: str, remedy: str) -> None:
    """Raise ArchiveError if the store holds only a part of an archive: a part must not be changed."""
    if store.stat(PART_FILE) is not None:
        raise ArchiveError(
            f"{store.url} is a part of an archive, and {doing} would make its manifest wrong",
            "Nothing was changed.",
            remedy,
        )


def relative_stores(store: Store, manifest: Manifest) -> Mapping[str, Store]:
    """Return the stores of an archive's units by relative URL: its own as "", and those it extends."""
    return {"": store, **{url: store.beside(url) for url in manifest.extends}}
