"""Write an archive's labels of some views, with the images, as WebDataset tars: see tars.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import webdataset

from teacher_cache import images
from teacher_cache.archive.exports.check import exporting
from teacher_cache.archive.format.calibration import copy_agreement
from teacher_cache.archive.format.tars import (
    AFFINITY_FILE,
    EXPORT_FILE,
    FORMAT,
    VERSION,
    affinity_records,
    basis_npy,
    members_of,
    npy_bytes,
)
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.dataset.index import (
    DATASET_FILE,
    INDEX_FILE,
    INDEX_SCHEMA,
    DatasetInfo,
    Shard,
    index_bytes,
)
from teacher_cache.dataset.packing.shard_tar import index_tar
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.exact.canonical import file_sha256, seal, sha256_hex
from teacher_cache.labels.arrays import LabelArrays
from teacher_cache.program.progress import Track
from teacher_cache.storage.store import Store


class Exported(NamedTuple):
    """Result of an export.

    Attributes:
        info: Description of the tars as a packed dataset.
        extension: File extension that every image has in the tars.
        num_misnamed: Number of images whose format does not match that extension.
    """

    info: DatasetInfo
    extension: str
    num_misnamed: int


def export_tars(
    reader: ArchiveReader, dataset: PackedDataset, views: range, destination: Store, track: Track
) -> Exported:
    """Write an archive's labels of some views, with the images, as tars.

    Raises:
        ArchiveError: The archive lacks a view, or does not belong to the dataset; the destination is not
            empty; a label or image is damaged.
    """
    with exporting("tars", reader, dataset, views, destination):
        return _export_tars(reader, dataset, views, destination, track)


def _export_tars(
    reader: ArchiveReader, dataset: PackedDataset, views: range, destination: Store, track: Track
) -> Exported:
    shared = reader.shared_arrays()
    shared_sha256: dict[str, str | None] = {"affinity_sha256": None}
    if isinstance(shared, LabelArrays):
        affinity_npy = npy_bytes(affinity_records(shared, reader.spec))
        destination.put(AFFINITY_FILE, affinity_npy)
        shared_sha256 = {"affinity_sha256": sha256_hex(affinity_npy)}
    elif shared is not None:
        shared_sha256 |= {"basis_sha256": sha256_hex(basis_npy(shared))}
    copy_agreement(reader.store, destination, reader.spec)
    offsets = {member.extension: member.column for member in members_of(reader.spec.layout)}
    schema = INDEX_SCHEMA
    for column in offsets.values():
        schema = schema.append(pa.field(column, pa.int64()))
    columns: dict[str, list[Any]] = {name: [] for name in schema.names}
    shards: list[Shard] = []
    digests: list[str] = []
    extension, num_misnamed = images.extension_of(dataset.image_bytes(0)), 0
    with track("export", len(dataset), "samples") as advance:
        for number, shard in enumerate(dataset.info.shards):
            labels = shard_labels(reader, number, views)
            digests.append(sha256_hex(b"".join(values.tobytes() for values in labels)))
            is_there = destination.stat(shard.name) is not None
            opened = destination.local_copy(shard.name) if is_there else destination.put_file(shard.name)
            with opened as path:
                if not is_there:
                    num_misnamed += _write_tar(path, dataset, number, labels, list(offsets), extension)
                index_tar(path, number, columns, offsets)
                digest = file_sha256(path)
                shards.append(Shard(shard.name, digest, path.stat().st_size, shard.num_samples))
            if is_there:  # an export that stopped has written it
                blobs = map(dataset.image_bytes, dataset.rows_of(number))
                num_misnamed += sum(images.extension_of(blob) != extension for blob in blobs)
            advance(shard.num_samples)
    index = index_bytes(pa.table(columns, schema=schema))
    info = DatasetInfo(
        dataset.info.classes, tuple(shards), sha256_hex(index), {**dataset.info.source, "kind": "export"}
    )
    destination.put(INDEX_FILE, index)
    destination.put(DATASET_FILE, info.to_bytes())
    document = {
        "format": FORMAT,
        "version": VERSION,
        "spec": reader.spec.to_dict(),
        "views": [views.start, views.stop],
        "dataset_sha256": info.sha256,
        "labels_sha256": digests,
        **shared_sha256,
    }
    destination.put(EXPORT_FILE, seal(document))
    return Exported(info, extension, num_misnamed)


def shard_labels(reader: ArchiveReader, shard: int, views: range) -> LabelArrays:
    """Return a shard's labels as stored, (rows, views, ...), every object hashed and decoded once."""
    layout, parts = reader.spec.layout, []
    for receipt in sorted(reader.receipts, key=lambda receipt: receipt.unit):
        unit = receipt.unit
        inside = range(max(unit.first_view, views.start), min(unit.stop_view, views.stop))
        if unit.shard == shard and inside:
            whole = layout.decode_unit(reader.objects(receipt))
            wanted = slice(inside.start - unit.first_view, inside.stop - unit.first_view)
            parts.append([values[: receipt.rows, wanted] for values in whole])
    return LabelArrays(*(np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True)))


def _write_tar(
    path: Path,
    dataset: PackedDataset,
    shard: int,
    labels: LabelArrays,
    extensions: list[str],
    image_extension: str,
) -> int:
    """Write a tar; return the number of images whose format is not that of their extension."""
    num_misnamed = 0
    with (
        path.open("wb") as file,
        webdataset.TarWriter(file, encoder=False, mtime=0, format="PAX_FORMAT") as tar,
    ):
        for row, *values in zip(dataset.rows_of(shard), *labels, strict=True):
            image = dataset.image_bytes(row)
            num_misnamed += images.extension_of(image) != image_extension
            tar.write(
                {
                    "__key__": dataset.index.key(row),
                    image_extension: image,
                    "cls": str(dataset.index.labels_N[row]).encode(),
                    **{name: npy_bytes(array) for name, array in zip(extensions, values, strict=True)},
                }
            )
    return num_misnamed
