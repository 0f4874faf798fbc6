"""Writing an archive: objects first, the unit's receipt after them, the manifest at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from teacher_cache.archive.layout import Unit
from teacher_cache.archive.manifest import (
    MANIFEST_FILE,
    RECEIPTS,
    SPEC_FILE,
    ArchiveSpec,
    Receipt,
    manifest_bytes,
    open_document,
    receipt_bytes,
    receipt_name,
    spec_bytes,
    zarr_documents,
)
from teacher_cache.canonical import sha256_hex
from teacher_cache.errors import ArchiveError, DamagedError
from teacher_cache.labels.codec import LabelArrays
from teacher_cache.store import Store


class ArchiveWriter:
    """An archive being made. Killing it at any point loses only the unit under way.

    Two writers of one fingerprint do no harm where they write the same bytes: on the same kind of device,
    with the same batch size. Each object is whole in any case.

    Args:
        store: Where the archive lies or will lie.
        spec: What is asked of it; see `open`.
    """

    def __init__(self, store: Store, spec: ArchiveSpec) -> None:
        self.spec = spec
        self._store = store
        self._layout = spec.layout

    @classmethod
    def open(cls, store: Store, spec: ArchiveSpec) -> ArchiveWriter:
        """Create an archive, or continue one of the same fingerprint, whose layout is then kept.

        Raises:
            ArchiveError: Something else lies there: an archive of another request, which says what differs,
                or anything but an archive.
        """
        store.sweep()
        # the second look: another first writer may have published its spec between the look and the listing
        if store.stat(SPEC_FILE) is None and store.list() and store.stat(SPEC_FILE) is None:
            raise ArchiveError(
                f"{store.url} is not empty and has no {SPEC_FILE}",
                "It is not an archive, and nothing in it is overwritten.",
                "choose a new folder",
            )
        store.put_new(SPEC_FILE, spec_bytes(spec))
        existing = _existing_spec(store)
        if existing.fingerprint != spec.fingerprint:
            raise ArchiveError(
                f"{store.url} holds labels of another request: {'; '.join(differences(existing, spec))}",
                "Labels of two requests cannot lie in one archive.",
                "choose a new folder with --out, or ask for the same again",
            )
        return cls(store, existing)

    def receipts(self) -> list[Receipt]:
        """Return the receipts of finished units whose objects are there in full size."""
        found = []
        for name in self._store.list(RECEIPTS):
            try:
                document = open_document(self._store.get(name), name)
            except ArchiveError:
                continue  # the unit is computed again, and its receipt replaced
            receipt = Receipt.from_dict(document["unit"])
            is_ours = document["fingerprint"] == self.spec.fingerprint and name == receipt_name(receipt.unit)
            if is_ours and self._layout.holds(receipt.unit) and self._is_whole(receipt):
                found.append(receipt)
        return found

    def _is_whole(self, receipt: Receipt) -> bool:
        return all(
            self._store.stat(self._layout.object_name(array, receipt.unit)) == size
            for array, (_, size) in receipt.objects.items()
        )

    def commit(self, unit: Unit, labels: LabelArrays, keys_sha256: str) -> Receipt:
        """Write a unit's objects, then its receipt.

        Args:
            unit: What was computed.
            labels: idx and dq (rows, views, k), tail (rows, views).
            keys_sha256: Digest of the rows' keys.
        """
        objects: Mapping[str, bytes] = self._layout.encode_unit(labels)
        for array, data in objects.items():
            self._store.put(self._layout.object_name(array, unit), data)
        receipt = Receipt(
            unit=unit,
            rows=labels.idx.shape[0],
            keys_sha256=keys_sha256,
            objects={array: (sha256_hex(data), len(data)) for array, data in objects.items()},
        )
        self._store.put(receipt_name(unit), receipt_bytes(receipt, self.spec.fingerprint))
        return receipt

    def finish(self) -> None:
        """Write the Zarr documents and, last, the manifest of all finished units."""
        receipts = self.receipts()
        for name, data in zarr_documents(self.spec, receipts).items():
            self._store.put(name, data)
        self._store.put(MANIFEST_FILE, manifest_bytes(self.spec, receipts))

    @property
    def is_finished(self) -> bool:
        """Whether the manifest of all finished units is there, and the Zarr documents are."""
        receipts = self.receipts()
        wanted = {**zarr_documents(self.spec, receipts), MANIFEST_FILE: manifest_bytes(self.spec, receipts)}
        return all(
            self._store.stat(name) == len(data) and self._store.get(name) == data
            for name, data in wanted.items()
        )


def _existing_spec(store: Store) -> ArchiveSpec:
    """Read spec.json, or, if it was damaged, make it again from the manifest that holds the same."""
    try:
        document = open_document(store.get(SPEC_FILE), store.path(SPEC_FILE))
    except DamagedError:
        if store.stat(MANIFEST_FILE) is None:
            raise
        document = open_document(store.get(MANIFEST_FILE), store.path(MANIFEST_FILE))
        store.put(SPEC_FILE, spec_bytes(ArchiveSpec.from_dict(document["spec"])))
    return ArchiveSpec.from_dict(document["spec"])


def differences(ours: ArchiveSpec, theirs: ArchiveSpec) -> list[str]:
    """Say in which fields two specs' identities differ: "labels.k 10, not 5"."""
    return _differences("", ours.identity, theirs.identity)


def _differences(path: str, ours: Any, theirs: Any) -> list[str]:
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        names = sorted({*ours, *theirs})
        return [
            line
            for name in names
            for line in _differences(f"{path}.{name}".lstrip("."), ours.get(name), theirs.get(name))
        ]
    return [] if ours == theirs else [f"{path} {ours}, not {theirs}"]
