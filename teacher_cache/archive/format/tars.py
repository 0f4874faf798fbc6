"""Archives as WebDataset tars: each sample has its image, its class and its labels of a range of views.

    shard-000000.tar      for every sample key.jpg, key.cls, key.idx.npy, key.dq.npy, key.tail.npy
    dataset.json, index.parquet   the tars as a packed dataset, which the stream opens as any other
    affinity.npy          the class affinity; or basis.npy, the basis of labels by components
    export.json           written last: the archive's spec, the views, a digest of each tar's labels

The .npy files are the fields of labels/codec.py, plain arrays whose first axis is the views, so that Hugging
Face datasets and plain webdataset open the tars as they are. Every image has the extension of the first one,
whatever its own format, because datasets refuses tars whose samples differ in their members.

Exports of version 1 had key.labels.npy, an array (views,) of records, and a folder __labels__ in each tar.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple, NotRequired, TypedDict

import msgspec
import numpy as np
import numpy.typing as npt

from teacher_cache.archive.format.documents import Sha256, View, get_document
from teacher_cache.archive.format.layout import Layout
from teacher_cache.archive.format.spec import ArchiveSpec
from teacher_cache.errors import ArchiveError, DamagedError
from teacher_cache.exact.canonical import unseal
from teacher_cache.labels.arrays import BasisArrays, LabelArrays
from teacher_cache.storage.store import Store

FORMAT = "teacher-cache-export"
VERSION = 2
VERSION_OF_RECORDS = 1
EXPORT_FILE = "export.json"
AFFINITY_FILE, BASIS_FILE = "affinity.npy", "basis.npy"

META_OF_RECORDS = "__labels__"
"""Folder of the spec and the affinity in a tar of version 1."""


class ExportFields(TypedDict):
    """Fields of export.json."""

    spec: dict[str, Any]
    views: tuple[View, View]
    dataset_sha256: Sha256
    labels_sha256: list[Sha256]
    affinity_sha256: Sha256 | None
    basis_sha256: NotRequired[Sha256]


class Member(NamedTuple):
    """Kind of .npy file that each sample of an export has.

    Attributes:
        extension: Name after the key.
        column: Column of index.parquet with the files' offsets in their tars.
        dtype: Type of one view: numbers, or a record of all fields in version 1.
    """

    extension: str
    column: str
    dtype: np.dtype

    def header(self, num_views: int) -> bytes:
        """Return the .npy header of a file of this kind that holds `num_views` views."""
        return npy_bytes(np.empty((num_views, *self.dtype.shape), self.dtype.base))[
            : -num_views * self.dtype.itemsize
        ]


def members_of(layout: Layout, version: int = VERSION) -> tuple[Member, ...]:
    """Return the kinds of .npy files of each sample, in their order in a tar."""
    idx, values, tail = layout.arrays
    shapes = {idx: (layout.k,), values: (layout.k + layout.num_codes,), tail: ()}
    fields = {name: np.dtype((layout.dtypes[name], shapes[name])) for name in layout.arrays}
    if version == VERSION_OF_RECORDS:
        record = np.dtype([(name, dtype.base, dtype.shape) for name, dtype in fields.items()])
        return (Member("labels.npy", "labels_offset", record),)
    return tuple(Member(f"{name}.npy", f"{name}_offset", dtype) for name, dtype in fields.items())


def arrays_of(bodies: Sequence[bytes], members: Sequence[Member], num_views: int) -> LabelArrays:
    """Return stored labels (rows, views, ...) from each member's array data, joined over all samples."""
    arrays = [
        np.frombuffer(body, member.dtype).reshape(-1, num_views, *member.dtype.shape)
        for body, member in zip(bodies, members, strict=True)
    ]
    names = members[0].dtype.names
    return LabelArrays(*([arrays[0][name] for name in names] if names else arrays))


def npy_bytes(array: npt.NDArray[Any]) -> bytes:
    """Return an array as the content of a .npy file."""
    sink = io.BytesIO()
    np.save(sink, array, allow_pickle=False)
    return sink.getvalue()


def basis_npy(arrays: BasisArrays) -> bytes:
    """Return basis.npy: float32 (M + 1, 2 + C), each row a step, an error, and the mean or a direction."""
    return npy_bytes(np.column_stack([arrays.basis_step, arrays.basis_error, arrays.basis]).astype("<f4"))


def basis_arrays(numbers: npt.NDArray[np.float32]) -> BasisArrays:
    """Return the basis as it is stored, from the numbers of basis.npy."""
    step, error = (np.ascontiguousarray(numbers[:, column]) for column in (0, 1))
    return BasisArrays(numbers[:, 2:].astype(np.float16), step, error)


def affinity_records(arrays: LabelArrays, spec: ArchiveSpec) -> npt.NDArray[np.void]:
    """Return the class affinity as records, one for each row."""
    records = np.empty(arrays.tail.shape, affinity_dtype(spec))
    for name, values in zip(records.dtype.names or (), arrays, strict=True):
        records[name] = values
    return records


def affinity_arrays(records: npt.NDArray[np.void]) -> LabelArrays:
    """Return the class affinity as it is stored, from its records."""
    return LabelArrays(*(records[name] for name in records.dtype.names or ()))


def affinity_dtype(spec: ArchiveSpec) -> np.dtype:
    """Return the record type of one row of the class affinity."""
    idx, entries = spec.layout.dtypes["idx"], spec.labels.affinity_entries
    return np.dtype([("idx", idx, (entries,)), ("dq", "u1", (entries,)), ("tail", "u1")])


def read_export(store: Store) -> tuple[ExportFields, int]:
    """Read export.json; return its fields and its version.

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
            f"{what} is damaged: {error}", "Its content cannot be trusted.", "export the archive again"
        ) from error
    version = document.get("version")
    if document.get("format") != FORMAT or version not in (VERSION_OF_RECORDS, VERSION):
        raise ArchiveError(
            f"{what} has format {document.get('format')!r}, version {version!r}",
            f"This program reads {FORMAT} up to version {VERSION}.",
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
    return fields, version
