"""Receipts: small documents, each written after the objects it names to mark them as finished.

receipts/affinity.json  the class affinity, frozen before the first unit; receipts/basis.json for a basis
receipts/agreement.json agreement of the teacher with the true labels (calibration.py)
receipts/extends.json   units that lie in other archives, if there are any
receipts/00012-003.json a unit, written after its objects
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypedDict, get_args

from msgspec import Meta

from teacher_cache.archive.format.documents import (
    FORMAT,
    VERSION,
    Count,
    Digest,
    Place,
    Sha256,
    View,
    converted,
    open_document,
)
from teacher_cache.archive.format.layout import Unit
from teacher_cache.archive.format.spec import ArchiveSpec, SharedKind
from teacher_cache.errors import ArchiveError
from teacher_cache.exact.canonical import seal, sha256_hex

RECEIPTS = "receipts"


SHARED_FILES = {kind: f"{RECEIPTS}/{kind}.json" for kind in get_args(SharedKind)}
"""Receipt of the arrays that all labels share, by their kind."""
AGREEMENT_FILE = f"{RECEIPTS}/agreement.json"
EXTENDS_FILE = f"{RECEIPTS}/extends.json"
NOT_UNITS = (*SHARED_FILES.values(), AGREEMENT_FILE, EXTENDS_FILE)
"""Documents among the receipts that are not receipts of units."""


@dataclasses.dataclass(frozen=True)
class Receipt:
    """Proof of one finished unit.

    Attributes:
        keys_sha256: Digest of the samples' keys, in order.
        objects: sha256 and size in bytes of each array's object.
    """

    unit: Unit
    rows: int
    keys_sha256: str
    objects: dict[str, Digest]

    @property
    def num_bytes(self) -> int:
        """Size of all objects of the unit in bytes."""
        return sum(size for _, size in self.objects.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the receipt as plain JSON values."""
        return {
            "shard": self.unit.shard,
            "block": self.unit.block,
            "views": [self.unit.first_view, self.unit.stop_view],
            "rows": self.rows,
            "keys_sha256": self.keys_sha256,
            "objects": {array: list(digest) for array, digest in self.objects.items()},
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Receipt:
        """Build a receipt from the result of `to_dict`. Raises ArchiveError for any other document."""
        fields = converted(document, _ReceiptFields, "a receipt")
        return cls(
            Unit(fields["shard"], fields["block"], *fields["views"]),
            fields["rows"],
            fields["keys_sha256"],
            fields["objects"],
        )


class _ReceiptFields(TypedDict):
    shard: Place
    block: Place
    views: tuple[View, View]
    rows: Count
    keys_sha256: Sha256
    objects: dict[str, Digest]


class Extension(TypedDict):
    """Units that lie in another archive, which is named by its relative URL: "../labels"."""

    archive: Annotated[str, Meta(pattern="^[^/:\\\\][^:\\\\]*$", max_length=4096)]
    units: list[dict[str, Any]]


def extensions_to_json(extends: Mapping[str, Sequence[Receipt]]) -> list[dict[str, Any]]:
    """Return receipts of units in other archives as plain JSON values, in order of the archives' URLs."""
    return [
        {"archive": url, "units": receipts_to_json(receipts)} for url, receipts in sorted(extends.items())
    ]


def extensions_from_json(extensions: Sequence[Extension]) -> dict[str, tuple[Receipt, ...]]:
    """Return receipts by the URLs of their archives, from the result of `extensions_to_json`."""
    return {
        extension["archive"]: tuple(Receipt.from_dict(unit) for unit in extension["units"])
        for extension in extensions
    }


def extends_bytes(extends: Mapping[str, Sequence[Receipt]], fingerprint: str) -> bytes:
    """Return the content of the receipt that names the units of other archives."""
    return seal(
        {
            "format": FORMAT,
            "version": VERSION,
            "fingerprint": fingerprint,
            "extends": extensions_to_json(extends),
        }
    )


def read_extends(data: bytes, what: str, spec: ArchiveSpec) -> dict[str, tuple[Receipt, ...]]:
    """Read the receipt that names the units of other archives.

    Raises:
        ArchiveError: The receipt is damaged, or belongs to another archive.
    """
    document = document_of_archive(data, what, spec)
    return extensions_from_json(converted(document.get("extends"), list[Extension], what))


def receipts_to_json(receipts: Sequence[Receipt]) -> list[dict[str, Any]]:
    """Return receipts as plain JSON values, in order of their units."""
    return [receipt.to_dict() for receipt in sorted(receipts, key=lambda receipt: receipt.unit)]


def check_receipt(spec: ArchiveSpec, receipt: Receipt) -> None:
    """Raise ArchiveError if a receipt's unit, rows, arrays or sizes do not fit the archive's spec."""
    layout, unit = spec.layout, receipt.unit
    if max((size for _, size in receipt.objects.values()), default=0) > layout.max_object_bytes:
        raise ArchiveError(
            f"a receipt of unit {unit.name} with objects of {receipt.num_bytes:,} bytes in all",
            f"An object of this archive never has more than {layout.max_object_bytes:,} bytes.",
        )
    if (
        not layout.holds(unit)
        or receipt.rows != spec.rows(unit.shard)
        or set(receipt.objects) != set(layout.arrays)
    ):
        raise ArchiveError(
            f"a receipt of unit {unit.name}, views {unit.first_view}:{unit.stop_view}, "
            f"{receipt.rows:,} rows, arrays {', '.join(receipt.objects)}",
            "The archive's layout has no such unit.",
        )


def receipt_name(unit: Unit) -> str:
    """Return the name of a unit's receipt in the archive."""
    return f"{RECEIPTS}/{unit.name}.json"


def receipt_bytes(receipt: Receipt, fingerprint: str) -> bytes:
    """Return the content of a receipt's file."""
    return seal({"format": FORMAT, "version": VERSION, "fingerprint": fingerprint, "unit": receipt.to_dict()})


def refuse_other_basis(url: str, ours: Mapping[str, Digest], theirs: Mapping[str, Digest]) -> None:
    """Raise ArchiveError if two bases differ: codes mean nothing in another basis than their own."""
    if dict(ours) != dict(theirs):
        raise ArchiveError(
            f"{url} has another basis of components",
            "Labels are written in the basis of their archive, and mean nothing in another one.",
            "use archives that were begun from one another, or extract on one kind of device",
        )


def digests_of(objects: Mapping[str, bytes]) -> dict[str, Digest]:
    """Return the sha256 and the size of objects."""
    return {array: (sha256_hex(data), len(data)) for array, data in objects.items()}


def shared_file(spec: ArchiveSpec) -> str:
    """Return the name of the receipt of the arrays that all labels share."""
    return SHARED_FILES[spec.labels.shared_kind]


def shared_bytes(objects: Mapping[str, Digest], spec: ArchiveSpec) -> bytes:
    """Return the content of the receipt of the arrays that all labels share."""
    digests = {array: list(digest) for array, digest in objects.items()}
    head = {"format": FORMAT, "version": VERSION, "fingerprint": spec.fingerprint}
    return seal({**head, spec.labels.shared_kind: digests})


def read_receipt(data: bytes, what: str, spec: ArchiveSpec) -> Receipt:
    """Read a unit's receipt. Raises ArchiveError if it is damaged, or belongs to another archive."""
    document = document_of_archive(data, what, spec)
    receipt = Receipt.from_dict(document.get("unit", {}))
    check_receipt(spec, receipt)
    return receipt


def read_shared_receipt(data: bytes, what: str, spec: ArchiveSpec) -> dict[str, Digest]:
    """Read the receipt of the shared arrays. Raises ArchiveError if it is damaged, or of another archive."""
    document, kind = document_of_archive(data, what, spec), spec.labels.shared_kind
    objects = converted(document.get(kind), dict[str, Digest], what)
    if set(objects) != set(spec.layout.shared_arrays):
        raise ArchiveError(
            f"{what} names the arrays {', '.join(objects)}", f"The archive's {kind} has other arrays."
        )
    return objects


def document_of_archive(data: bytes, what: str, spec: ArchiveSpec) -> dict[str, Any]:
    """Open a document of an archive. Raises ArchiveError if it is damaged, or belongs to another archive."""
    document = open_document(data, what)
    if document.get("fingerprint") != spec.fingerprint:
        raise ArchiveError(f"{what} belongs to another archive", "It describes other labels.")
    return document
