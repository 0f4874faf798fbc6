"""Write an archive's labels of some views, with the images, as WebDataset tars: see tars.py."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import webdataset

from teacher_cache import images
from teacher_cache.archive.calibration import copy_agreement
from teacher_cache.archive.read import ArchiveReader
from teacher_cache.archive.source import check_export
from teacher_cache.archive.tars import (
    AFFINITY_FILE,
    EXPORT_FILE,
    FORMAT,
    LABELS_EXTENSION,
    META,
    OFFSETS_COLUMN,
    VERSION,
    affinity_dtype,
    npy_bytes,
    record_dtype,
    records_of,
)
from teacher_cache.dataset.index import (
    DATASET_FILE,
    INDEX_FILE,
    INDEX_SCHEMA,
    DatasetInfo,
    Shard,
    index_bytes,
)
from teacher_cache.dataset.index_tar import index_tar
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.exact.canonical import file_sha256, seal, sha256_hex
from teacher_cache.labels.arrays import LabelArrays
from teacher_cache.program.progress import Track
from teacher_cache.storage.store import Store

_EXPORT_SCHEMA = INDEX_SCHEMA.append(pa.field(OFFSETS_COLUMN, pa.int64()))


def export_tars(
    reader: ArchiveReader, dataset: PackedDataset, views: range, destination: Store, track: Track
) -> DatasetInfo:
    """Write an archive's labels of some views, with the images, as tars.

    Raises:
        ArchiveError: The archive lacks a view, or does not belong to the dataset; the destination is not
            empty; a label or image is damaged.
    """
    check_export(reader, dataset, views, destination)
    affinity = reader.affinity_arrays()
    affinity_npy = None if affinity is None else npy_bytes(records_of(affinity, affinity_dtype(reader.spec)))
    head = {"spec": reader.spec.to_dict(), "views": [views.start, views.stop]}
    meta = {"spec.json": seal({"format": FORMAT, "version": VERSION, **head})}
    if affinity_npy is not None:
        meta["affinity.npy"] = affinity_npy
        destination.put(AFFINITY_FILE, affinity_npy)
    copy_agreement(reader.store, destination, reader.spec)
    columns: dict[str, list[Any]] = {name: [] for name in _EXPORT_SCHEMA.names}
    shards: list[Shard] = []
    digests: list[str] = []
    with track("export", len(dataset), "samples") as advance:
        for number, shard in enumerate(dataset.info.shards):
            records_RV = shard_records(reader, number, views)
            digests.append(sha256_hex(records_RV.tobytes()))
            with destination.put_file(shard.name) as path:
                _write_tar(path, dataset, number, records_RV, meta)
                index_tar(path, number, columns, {LABELS_EXTENSION: OFFSETS_COLUMN})
                digest = file_sha256(path)
                shards.append(Shard(shard.name, digest, path.stat().st_size, shard.num_samples))
            advance(shard.num_samples)
    index = index_bytes(pa.table(columns, schema=_EXPORT_SCHEMA))
    info = DatasetInfo(
        dataset.info.classes, tuple(shards), sha256_hex(index), {**dataset.info.source, "kind": "export"}
    )
    destination.put(INDEX_FILE, index)
    destination.put(DATASET_FILE, info.to_bytes())
    document = {
        "format": FORMAT,
        "version": VERSION,
        **head,
        "dataset_sha256": info.sha256,
        "labels_sha256": digests,
        "affinity_sha256": None if affinity_npy is None else sha256_hex(affinity_npy),
    }
    destination.put(EXPORT_FILE, seal(document))
    return info


def shard_records(reader: ArchiveReader, shard: int, views: range) -> npt.NDArray[np.void]:
    """Return a shard's labels as records (rows, views), every object hashed and decoded once."""
    layout, parts = reader.spec.layout, []
    for receipt in sorted(reader.receipts, key=lambda receipt: receipt.unit):
        unit = receipt.unit
        inside = range(max(unit.first_view, views.start), min(unit.stop_view, views.stop))
        if unit.shard == shard and inside:
            whole = layout.decode_unit(reader.objects(receipt))
            wanted = slice(inside.start - unit.first_view, inside.stop - unit.first_view)
            some = LabelArrays(*(values[: receipt.rows, wanted] for values in whole))
            parts.append(records_of(some, record_dtype(layout)))
    return np.concatenate(parts, axis=1)


def _write_tar(
    path: Path,
    dataset: PackedDataset,
    shard: int,
    records_RV: npt.NDArray[np.void],
    meta: Mapping[str, bytes],
) -> None:
    with (
        path.open("wb") as file,
        webdataset.TarWriter(file, encoder=False, mtime=0, format="PAX_FORMAT") as tar,
    ):
        for name, data in meta.items():
            stem, _, extension = name.partition(".")
            tar.write({"__key__": f"{META}/{stem}", extension: data})
        for row, records_V in zip(dataset.rows_of(shard), records_RV, strict=True):
            image = dataset.image_bytes(row)
            tar.write(
                {
                    "__key__": dataset.index.key(row),
                    images.extension_of(image): image,
                    "cls": str(dataset.index.labels_N[row]).encode(),
                    LABELS_EXTENSION: npy_bytes(records_V),
                }
            )
