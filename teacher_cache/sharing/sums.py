"""Write SHA256SUMS: the checksum of every file of an archive, read by `sha256sum -c`."""

from __future__ import annotations

from teacher_cache.archive.format.calibration import get_agreement
from teacher_cache.archive.format.companions import SUMS_FILE, companions_of, rows_copy, sums_bytes
from teacher_cache.archive.format.documents import get_document
from teacher_cache.archive.format.manifest import documents_of, zarr_documents
from teacher_cache.archive.format.receipts import AGREEMENT_FILE
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.storage.store import Store


def put_sums(reader: ArchiveReader, store: Store) -> None:
    """Write SHA256SUMS of an archive's documents, objects and companions; the manifest gives the objects'.

    Args:
        store: Store of the archive to write to; the reader's may be pinned to a revision.

    Raises:
        ArchiveError: The receipt of the agreement is damaged.
    """
    manifest = reader.manifest
    own = [receipt for receipt in reader.receipts if reader.store_of(receipt) is reader.store]
    files = {**documents_of(manifest, own), **zarr_documents(reader.spec, manifest.all_receipts)}
    if get_agreement(store, reader.spec) is not None:
        files[AGREEMENT_FILE] = get_document(store, AGREEMENT_FILE)
    files |= companions_of(store)
    with rows_copy(store) as rows:
        rows_sha256 = None if rows is None else rows[1]
    store.put(SUMS_FILE, sums_bytes(manifest, reader.part, files, rows_sha256))
