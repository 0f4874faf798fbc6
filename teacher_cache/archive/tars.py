"""Archives as WebDataset tars: each sample has its image, its class and its labels of a range of views.

    shard-000000.tar      __labels__/spec.json, __labels__/affinity.npy, then for every sample
                          key.jpg, key.cls, key.labels.npy
    dataset.json, index.parquet   the tars as a packed dataset, which the stream opens as any other
    affinity.npy          the class affinity
    export.json           written last: the archive's spec, the views, a digest of each tar's labels

key.labels.npy is an array (views,) of records with the fields of labels/codec.py, without pickle. WebDataset
skips members whose name begins with __x__/.
"""

from __future__ import annotations

import io
from typing import Any, TypedDict

import msgspec
import numpy as np
import numpy.typing as npt

from teacher_cache.archive.documents import Sha256, View, get_document
from teacher_cache.archive.layout import Layout
from teacher_cache.archive.spec import ArchiveSpec
from teacher_cache.errors import ArchiveError, DamagedError
from teacher_cache.exact.canonical import unseal
from teacher_cache.labels.arrays import LabelArrays
from teacher_cache.storage.store import Store

FORMAT = "teacher-cache-export"
VERSION = 1
EXPORT_FILE = "export.json"
AFFINITY_FILE = "affinity.npy"

META = "__labels__"
LABELS_EXTENSION = "labels.npy"
OFFSETS_COLUMN = "labels_offset"
"""Column of index.parquet with the offset of a sample's labels.npy in its tar."""


class ExportFields(TypedDict):
    """Fields of export.json."""

    spec: dict[str, Any]
    views: tuple[View, View]
    dataset_sha256: Sha256
    labels_sha256: list[Sha256]
    affinity_sha256: Sha256 | None


def record_dtype(layout: Layout) -> np.dtype:
    """Return the record type of one view: the fields of a stored label, packed."""
    arrays = layout.dtypes
    idx, values, tail = layout.arrays
    return np.dtype(
        [(idx, arrays[idx], (layout.k,)), (values, arrays[values], (layout.k,)), (tail, arrays[tail])]
    )


def npy_bytes(array: npt.NDArray[Any]) -> bytes:
    """Return an array as the content of a .npy file."""
    sink = io.BytesIO()
    np.save(sink, array, allow_pickle=False)
    return sink.getvalue()


def npy_header(dtype: np.dtype, count: int) -> bytes:
    """Return the header of a .npy file of `count` records."""
    sink = io.BytesIO()
    shape = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(sink, shape)
    return sink.getvalue()


def records_of(arrays: LabelArrays, dtype: np.dtype) -> npt.NDArray[np.void]:
    """Return stored labels as records."""
    records = np.empty(arrays.tail.shape, dtype)
    for name, values in zip(dtype.names or (), arrays, strict=True):
        records[name] = values
    return records


def arrays_of(records: npt.NDArray[np.void]) -> LabelArrays:
    """Return records as stored labels."""
    return LabelArrays(*(records[name] for name in records.dtype.names or ()))


def affinity_dtype(spec: ArchiveSpec) -> np.dtype:
    """Return the record type of one row of the class affinity."""
    idx, entries = spec.layout.dtypes["idx"], spec.labels.affinity_entries
    return np.dtype([("idx", idx, (entries,)), ("dq", "u1", (entries,)), ("tail", "u1")])


def read_export(store: Store) -> ExportFields:
    """Read export.json.

    Raises:
        ArchiveError: The file is missing or damaged, of an unknown version, or holds an invalid value.
    """
    what = store.path(EXPORT_FILE)
    if store.stat(EXPORT_FILE) is None:
        raise ArchiveError(
            f"{store.url} is not an export: it has no {EXPORT_FILE}",
            "There is nothing to read.",
            "check the path",
        )
    try:
        document = unseal(get_document(store, EXPORT_FILE))
    except ValueError as error:
        raise DamagedError(
            f"{what} is damaged: {error}", "What it says is not certain.", "export the archive again"
        ) from error
    if (document.get("format"), document.get("version")) != (FORMAT, VERSION):
        raise ArchiveError(
            f"{what} has format {document.get('format')!r}, version {document.get('version')!r}",
            f"This program reads {FORMAT} version {VERSION}.",
            "use the release that wrote it, or export again",
        )
    try:
        fields = msgspec.convert(document, ExportFields, strict=True)
    except msgspec.ValidationError as error:
        raise ArchiveError(
            f"{what} holds an invalid value: {error}", "It is not an export of this program."
        ) from error
    shards = ArchiveSpec.from_dict(fields["spec"]).dataset["shards"]
    first, stop = fields["views"]
    if not first < stop or len(fields["labels_sha256"]) != len(shards):
        raise ArchiveError(
            f"{what} holds an invalid value: views {first}:{stop}", "It is not an export of this program."
        )
    return fields
