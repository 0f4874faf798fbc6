"""Calibration of an archive: parts kept for resuming, and the agreement of teacher and true labels.

calibration/calibration-00003  the teacher's classes of some views; deleted when the archive is finished
receipts/agreement.json        agreement with the true labels; kept, but not listed in the manifest
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from teacher_cache.archive.format.documents import FORMAT, VERSION, converted, get_document
from teacher_cache.archive.format.receipts import AGREEMENT_FILE, document_of_archive
from teacher_cache.archive.format.spec import ArchiveSpec
from teacher_cache.errors import ArchiveError
from teacher_cache.exact.canonical import seal
from teacher_cache.labels.affinity_rule import CalibrationPart
from teacher_cache.labels.agreement import Agreement
from teacher_cache.storage.store import Store

_FOLDER = "calibration"


def put_part(store: Store, part: CalibrationPart, data: bytes) -> None:
    """Write the object of a part."""
    store.put(_name(part), data)


def get_parts(store: Store, parts: Sequence[CalibrationPart]) -> list[bytes]:
    """Return the content of each part's object, in order. Raises FileNotFoundError if one is missing."""
    return [store.get(_name(part)) for part in parts]


def missing_parts(store: Store, parts: Sequence[CalibrationPart]) -> list[CalibrationPart]:
    """Return the parts that have no object."""
    there = set(store.list(_FOLDER))
    return [part for part in parts if _name(part) not in there]


def delete_parts(store: Store, parts: Sequence[CalibrationPart] | None = None) -> None:
    """Delete the objects of some parts, or of all."""
    names = store.list(_FOLDER) if parts is None else [_name(part) for part in parts]
    for name in names:
        store.delete(name)


def put_agreement(store: Store, spec: ArchiveSpec, agreement: Agreement) -> None:
    """Write the agreement of the teacher with the true labels."""
    head = {"format": FORMAT, "version": VERSION, "fingerprint": spec.fingerprint}
    store.put(AGREEMENT_FILE, seal({**head, "agreement": dataclasses.asdict(agreement)}))


def get_agreement(store: Store, spec: ArchiveSpec) -> Agreement | None:
    """Return the agreement of the teacher with the true labels; None if none was measured.

    Raises:
        ArchiveError: The document is damaged, or belongs to another archive.
    """
    if store.stat_optional(AGREEMENT_FILE) is None:
        return None
    document = document_of_archive(get_document(store, AGREEMENT_FILE), AGREEMENT_FILE, spec)
    return converted(document.get("agreement"), Agreement, AGREEMENT_FILE)


def copy_agreement(source: Store, destination: Store, spec: ArchiveSpec) -> None:
    """Copy the agreement, if there is one, to an archive or export of the same fingerprint that has none.

    Raises:
        ArchiveError: The document is damaged, or belongs to another archive.
    """
    agreement = get_agreement(source, spec)
    if agreement is not None and destination.stat(AGREEMENT_FILE) is None:
        put_agreement(destination, spec, agreement)


def drop_damaged_agreement(store: Store, spec: ArchiveSpec) -> None:
    """Delete a damaged agreement: no label depends on it, and the next extract measures it again."""
    try:
        get_agreement(store, spec)
    except ArchiveError:
        store.delete(AGREEMENT_FILE)


def _name(part: CalibrationPart) -> str:
    return f"{_FOLDER}/{part.name}"
