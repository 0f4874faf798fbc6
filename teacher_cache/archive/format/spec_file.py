"""Read the spec.json of an archive, check it for damage, and compare it with the request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from teacher_cache.archive.format.documents import get_document, open_document
from teacher_cache.archive.format.manifest import MANIFEST_FILE, read_manifest
from teacher_cache.archive.format.receipts import NOT_UNITS, RECEIPTS, read_receipt
from teacher_cache.archive.format.spec import SPEC_FILE, ArchiveSpec, spec_bytes, spec_of
from teacher_cache.errors import DamagedError
from teacher_cache.storage.store import Store


def is_spec_lost(store: Store, asked: ArchiveSpec) -> bool:
    """Return whether an unfinished archive's spec.json is damaged, but its receipts belong to the request.

    Raises:
        ArchiveError: The spec.json is damaged, and a receipt belongs to another request.
    """
    if store.stat(SPEC_FILE) is None or store.stat(MANIFEST_FILE) is not None:
        return False
    try:
        open_document(get_document(store, SPEC_FILE), SPEC_FILE)
    except DamagedError:
        names = [name for name in store.list(RECEIPTS) if name not in NOT_UNITS]
        for name in names:
            read_receipt(get_document(store, name), store.path(name), asked)
        return True
    return False


def existing_spec(store: Store, *, mend: bool = True) -> ArchiveSpec:
    """Read spec.json; if it is damaged or missing, use the manifest's copy, which `mend` also writes back."""
    try:
        document = open_document(get_document(store, SPEC_FILE), store.path(SPEC_FILE))
    except (DamagedError, FileNotFoundError):
        if store.stat(MANIFEST_FILE) is None:
            raise
        spec = read_manifest(store).spec
        if mend:
            store.put(SPEC_FILE, spec_bytes(spec))
        return spec
    return spec_of(document, store.path(SPEC_FILE))


def differences(ours: ArchiveSpec, theirs: ArchiveSpec) -> list[str]:
    """Return the fields in which two specs' identities differ: "labels.k 10, not 5"."""
    return differing_fields("", ours.identity, theirs.identity)


def differing_fields(path: str, ours: Any, theirs: Any) -> list[str]:
    """Return the fields below a path in which two JSON values differ: "labels.k 10, not 5"."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        names = sorted({*ours, *theirs})
        return [
            line
            for name in names
            for line in differing_fields(f"{path}.{name}".lstrip("."), ours.get(name), theirs.get(name))
        ]
    return [] if ours == theirs else [f"{path} {ours}, not {theirs}"]
