"""Write an archive: objects first, the unit's receipt after them, the manifest at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from teacher_cache.archive.format.companions import SUMS_FILE
from teacher_cache.archive.format.documents import MAX_DOCUMENT_BYTES, Digest, get_document
from teacher_cache.archive.format.layout import Unit
from teacher_cache.archive.format.manifest import MANIFEST_FILE, Manifest, read_manifest, zarr_documents
from teacher_cache.archive.format.part import refuse_part
from teacher_cache.archive.format.receipts import (
    EXTENDS_FILE,
    NOT_UNITS,
    RECEIPTS,
    Receipt,
    digests_of,
    extends_bytes,
    read_extends,
    read_receipt,
    read_shared_receipt,
    receipt_bytes,
    receipt_name,
    refuse_other_basis,
    shared_bytes,
    shared_file,
)
from teacher_cache.archive.format.spec import SPEC_FILE, ArchiveSpec, spec_bytes
from teacher_cache.archive.format.spec_file import differences, existing_spec, is_spec_lost
from teacher_cache.archive.readers.read_units import fetched
from teacher_cache.errors import ArchiveError, InputError
from teacher_cache.labels.arrays import BasisArrays, LabelArrays, SharedArrays
from teacher_cache.labels.codec import decode_basis
from teacher_cache.labels.topk import Basis
from teacher_cache.storage.store import Store

_TOGETHER = 256
"""Number of receipts that are read at once."""


class ArchiveWriter:
    """Writer of an archive; a kill at any point loses only the unit under way.

    Several writers of one fingerprint do no harm: on a local store they take turns, and the second writer of
    a unit leaves the first one's objects as they are. An object store has no locks: there the writers must
    use one kind of device and one batch size, so that they write the same bytes.

    Attributes:
        is_new: Whether the archive has no spec.json yet, or a damaged one that will be written again.
    """

    def __init__(self, store: Store, spec: ArchiveSpec, *, is_new: bool = False) -> None:
        self.spec, self.store, self.is_new = spec, store, is_new
        self._layout = spec.layout

    @classmethod
    def open(cls, store: Store, spec: ArchiveSpec, *, create: bool = True) -> ArchiveWriter:
        """Create an archive, or continue one of the same fingerprint, which keeps its layout.

        Args:
            store: Store of the archive, empty for a new one.
            create: Write the spec where there is none; without it nothing is written.

        Raises:
            ArchiveError: The store holds an archive of another request (the message names the differences),
                or anything but an archive.
        """
        if create:
            store.sweep()
        _refuse_anything_else(store)
        refuse_part(store, "extracting into it", "pull the rest, or give a new --out and this as --extends")
        spec = ArchiveSpec.from_dict(spec.to_dict())  # raises where a reader would
        is_lost = is_spec_lost(store, spec)
        if not create and (is_lost or store.stat(SPEC_FILE) is None):
            return cls(store, spec, is_new=True)
        if create and is_lost:
            store.put(SPEC_FILE, spec_bytes(spec))
        elif create:
            store.put_new(SPEC_FILE, spec_bytes(spec))
        existing = existing_spec(store, mend=create)
        if existing.fingerprint != spec.fingerprint:
            raise ArchiveError(
                f"{store.url} holds labels of another request: {'; '.join(differences(existing, spec))}",
                "Labels of two requests cannot lie in one archive.",
                "choose a new folder with --out, or use the settings of that archive",
            )
        return cls(store, existing)

    def receipts(self) -> list[Receipt]:
        """Return the receipts of finished units whose objects exist in full size."""
        sizes = self.store.sizes()
        names = [
            name
            for name, size in sizes.items()
            if name.startswith(f"{RECEIPTS}/") and name not in NOT_UNITS and size <= MAX_DOCUMENT_BYTES
        ]
        found = []
        for start in range(0, len(names), _TOGETHER):
            some = names[start : start + _TOGETHER]
            pairs = zip(some, self.store.get_many(some), strict=True)
            found += [self._counting(name, data, sizes.get) for name, data in pairs]
        return sorted((receipt for receipt in found if receipt is not None), key=lambda each: each.unit)

    def _receipt(self, unit: Unit) -> Receipt | None:
        """Return a unit's receipt; None if it has no valid one."""
        name = receipt_name(unit)
        try:
            return self._counting(name, get_document(self.store, name), self.store.stat)
        except (ArchiveError, FileNotFoundError):
            return None

    def _counting(self, name: str, data: bytes, size_of: Callable[[str], int | None]) -> Receipt | None:
        """Return the receipt in `data` if it is valid and its objects have full size; else None."""
        try:
            receipt = read_receipt(data, name, self.spec)
        except InputError:
            return None
        is_whole = all(
            size_of(self._layout.object_name(array, receipt.unit)) == size
            for array, (_, size) in receipt.objects.items()
        )
        return receipt if is_whole and name == receipt_name(receipt.unit) else None

    def commit(self, unit: Unit, labels: LabelArrays, keys_sha256: str) -> Receipt:
        """Write a unit's objects, then its receipt, unless another writer has just done so.

        Args:
            labels: Labels of the unit: see LabelArrays, with (rows, views) in place of the dots.
            keys_sha256: Digest of the rows' keys.

        Returns:
            The receipt of the unit that the store then holds.
        """
        return self.put_objects(unit, self._layout.encode_unit(labels), labels.idx.shape[0], keys_sha256)

    def put_objects(
        self, unit: Unit, objects: Mapping[str, bytes], rows: int, keys_sha256: str, *, replace: bool = False
    ) -> Receipt:
        """Write a unit unless it has a valid receipt, or in any case with `replace`; return its receipt."""
        with self.store.exclusive():
            there = None if replace else self._receipt(unit)
            if there is not None and there.unit.stop_view >= unit.stop_view:
                return there
            if there is not None:
                raise ArchiveError(
                    f"unit {unit.name} is finished with views up to {there.unit.stop_view}, "
                    f"not {unit.stop_view}",
                    "A finished unit is never rewritten.",
                    "ask for the same last view in every run that writes to this archive at once",
                )
            for array, data in objects.items():
                self.store.put(self._layout.object_name(array, unit), data)
            # The receipt comes last: after a kill at any point, a receipt means that all objects are whole.
            receipt = Receipt(unit, rows, keys_sha256, digests_of(objects))
            self.store.put(receipt_name(unit), receipt_bytes(receipt, self.spec.fingerprint))
        return receipt

    @property
    def shared(self) -> dict[str, Digest] | None:
        """sha256 and size of each object of the frozen affinity or basis; None if an object is missing."""
        name = shared_file(self.spec)
        try:
            objects = read_shared_receipt(get_document(self.store, name), name, self.spec)
        except (ArchiveError, FileNotFoundError, NotADirectoryError):
            return None
        is_whole = all(
            self.store.stat(self._layout.shared_name(array)) == size for array, (_, size) in objects.items()
        )
        return objects if is_whole else None

    def freeze_shared(self, arrays: SharedArrays, *, replace: bool = False) -> None:
        """Write the class affinity or the basis, and its receipt; see `put_shared`."""
        self.put_shared(self._layout.encode_shared(arrays), replace=replace)

    def put_shared(self, objects: Mapping[str, bytes], *, replace: bool = False) -> None:
        """Write the class affinity or the basis from its objects, and its receipt.

        Args:
            replace: Write another affinity over an existing one, which is kept otherwise.

        Raises:
            ArchiveError: There is another basis, in which units may be written.
        """
        with self.store.exclusive():
            there = self.shared
            if there is not None and self.spec.labels.components is not None:
                refuse_other_basis(self.store.url, there, digests_of(objects))
            if there is not None and not replace:
                return
            for array, data in objects.items():
                self.store.put(self._layout.shared_name(array), data)
            self.store.put(shared_file(self.spec), shared_bytes(digests_of(objects), self.spec))

    def basis(self) -> Basis | None:
        """Return the basis in which the labels' codes are written; None for labels without codes.

        Raises:
            ArchiveError: The basis is missing or damaged.
        """
        if self.spec.labels.components is None:
            return None
        shared, layout = self.shared, self._layout
        if shared is None:
            raise ArchiveError(
                f"{self.store.url} has no basis of components",
                "Codes of labels are written in it.",
                "run the same extract again: it calibrates what is missing",
            )
        names = {array: layout.shared_name(array) for array in shared}
        objects = {array: fetched(self.store, names[array], digest) for array, digest in shared.items()}
        return decode_basis(BasisArrays(*layout.decode_shared(objects)), self.spec.labels.num_codes)

    def finish(self, extends: Mapping[str, tuple[Receipt, ...]] | None = None) -> Manifest:
        """Write the Zarr documents and, last, the manifest of all finished units, and return it.

        Args:
            extends: Receipts of units that lie in other archives, by the relative URLs of those archives;
                archives that this one extends already are kept.
        """
        with self.store.exclusive():
            manifest = self._manifest({**self.extends, **(extends or {})})
            documents = dict(zarr_documents(self.spec, manifest.all_receipts))
            if manifest.extends:
                documents[EXTENDS_FILE] = extends_bytes(manifest.extends, self.spec.fingerprint)
            if not self._is_kept(MANIFEST_FILE, manifest.to_bytes()):
                self.store.delete(SUMS_FILE)  # checksums of another manifest
            documents[MANIFEST_FILE] = manifest.to_bytes()  # last: it marks the archive as finished
            for name, data in documents.items():
                if not self._is_kept(name, data):
                    self.store.put(name, data)
            self.store.sweep()  # what workers that were killed in this run had begun to write
        return manifest

    def _is_kept(self, name: str, data: bytes) -> bool:
        return self.store.stat(name) == len(data) and self.store.get(name, len(data)) == data

    def _manifest(self, extends: Mapping[str, tuple[Receipt, ...]]) -> Manifest:
        """Return the new manifest: each unit once, including all units of the present manifest.

        A unit whose objects are damaged stays in the manifest: reading finds the damage, `repair` mends it.
        """
        seen: set[tuple[int, int]] = set()
        own = _first_ones((*self.receipts(), *self._known()), seen)
        elsewhere = {relative_url: _first_ones(theirs, seen) for relative_url, theirs in extends.items()}
        return Manifest(
            self.spec,
            self.shared,
            tuple(sorted(own, key=lambda receipt: receipt.unit)),
            {relative_url: theirs for relative_url, theirs in elsewhere.items() if theirs},
        )

    def _known(self) -> tuple[Receipt, ...]:
        """Return the receipts in the manifest; none if there is no readable manifest."""
        try:
            return read_manifest(self.store).receipts
        except ArchiveError:
            return ()

    @property
    def extends(self) -> Mapping[str, tuple[Receipt, ...]]:
        """Receipts of units in other archives that this one refers to, by relative URL.

        Raises:
            ArchiveError: extends.json is damaged, and the manifest, which repeats it, cannot be read.
        """
        if self.store.stat(EXTENDS_FILE) is None:
            return {}
        try:
            return read_extends(get_document(self.store, EXTENDS_FILE), EXTENDS_FILE, self.spec)
        except ArchiveError:
            return read_manifest(self.store).extends


def _refuse_anything_else(store: Store) -> None:
    """Refuse a folder that holds anything but an archive. Raises ArchiveError."""
    # the second stat: another first writer may have published its spec between the first one and the listing
    if store.stat(SPEC_FILE) is None and store.list() and store.stat(SPEC_FILE) is None:
        raise ArchiveError(
            f"{store.url} is not empty and has no {SPEC_FILE}",
            "It is not an archive, and nothing in it is overwritten.",
            "choose a new folder",
        )


def _first_ones(receipts: Iterable[Receipt], seen: set[tuple[int, int]]) -> tuple[Receipt, ...]:
    """Return the receipts of units not in `seen`, and add these units to it."""
    found = []
    for receipt in receipts:
        position = (receipt.unit.shard, receipt.unit.block)
        if position not in seen:
            seen.add(position)
            found.append(receipt)
    return tuple(found)
