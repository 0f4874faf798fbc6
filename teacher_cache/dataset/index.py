"""Two descriptions of a packed dataset: dataset.json, and index.parquet with the position of each sample."""

from __future__ import annotations

import dataclasses
import functools
import io
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Meta

from teacher_cache.errors import DatasetError
from teacher_cache.exact.canonical import canonical_json, seal, sha256_hex, sha256_of, unseal
from teacher_cache.labels.class_list import ClassList
from teacher_cache.storage.places import FileName
from teacher_cache.storage.store import Store

VERSION = 1
IN_PLACE_VERSION = 2
"""Version of a dataset whose images stay in the files of its source."""
REWRITTEN_VERSION = 3
"""Version of a dataset with JPEGs that were rewritten for crops."""
DATASET_FILE = "dataset.json"
MAX_DATASET_BYTES = 2**25
"""Size limit of dataset.json, enough for 100,000 shards: parsed JSON takes 20 times the memory."""
INDEX_FILE = "index.parquet"

INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("size", pa.int32()),
        ("label", pa.int32()),
        ("sha256", pa.binary(32)),
    ]
)
"""Columns of index.parquet; offset, size and sha256 are those of the image's bytes in its tar."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """One tar of the dataset.

    Attributes:
        sha256: Digest of the tar.
        num_bytes: Size of the tar.
        num_samples: Number of samples in it.
        original_sha256: Digest that the tar would have with the images' original bytes; None if it has them.
    """

    name: Annotated[str, Meta(pattern="^[A-Za-z0-9_-][A-Za-z0-9._-]*$")]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    num_bytes: Annotated[int, Meta(ge=0)]
    num_samples: Annotated[int, Meta(ge=1, le=2**32)]
    original_sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")] | None = None

    @property
    def identity(self) -> str:
        """Digest that stands for the keys, labels and pixels: a lossless rewriting of images keeps it."""
        return self.original_sha256 or self.sha256

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, without original_sha256 where there is none."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


IN_PLACE_SCHEMA = INDEX_SCHEMA.append(pa.field("file", pa.int32()))
"""Columns of the index of a dataset in place: offset is in bytes for a tar, in rows for a parquet file."""


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A tar or parquet file of the source, whose images are read in place."""

    name: FileName
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    num_bytes: Annotated[int, Meta(ge=0)]


@dataclasses.dataclass(frozen=True)
class InPlace:
    """Files that hold the images of a dataset in place.

    Attributes:
        root: Folder or URL of the files.
        files: Files in order.
        image_column: Column of the images in parquet files; None for tars.
    """

    root: str
    files: tuple[SourceFile, ...]
    image_column: str | None = None


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """Content of dataset.json.

    Attributes:
        classes: Class names; a label is a position in this list. Empty if nothing names the classes of a
            dataset without labels.
        shards: Shards in order; all but the last hold the same number of samples.
        index_sha256: sha256 of index.parquet.
        source: Origin of the dataset and settings of its packing: kind, seed, max_side_px, quality, skipped
            samples, and what was left out by reason.
        in_place: Files that hold the images; None if the shards do. The shards of a dataset in place are
            those that packing its samples in order would write, so that both have one identity.
    """

    classes: tuple[str, ...]
    shards: tuple[Shard, ...]
    index_sha256: str
    source: dict[str, Any]
    in_place: InPlace | None = None

    def __post_init__(self) -> None:
        sizes = [shard.num_samples for shard in self.shards]
        if not sizes or any(size != sizes[0] for size in sizes[:-1]) or not 0 < sizes[-1] <= sizes[0]:
            raise DatasetError(
                f"shards of {sizes} samples",
                "All shards but the last must hold the same number of samples, and the last no more.",
                "pack the dataset again",
            )

    @property
    def num_samples(self) -> int:
        """Number of samples in all shards."""
        return sum(shard.num_samples for shard in self.shards)

    @property
    def samples_per_shard(self) -> int:
        """Number of samples in every shard but the last."""
        return self.shards[0].num_samples

    @functools.cached_property
    def class_list(self) -> ClassList:
        """Class names as a list with an identity."""
        return ClassList(self.classes)

    @functools.cached_property
    def sha256(self) -> str:
        """Identity of the dataset: its class list and its shards' identities, in order."""
        shards = [[shard.identity, shard.num_samples] for shard in self.shards]
        return sha256_of({"classes": list(self.classes), "shards": shards})

    def to_bytes(self) -> bytes:
        """Return the content of dataset.json."""
        place = {} if self.in_place is None else {"in_place": dataclasses.asdict(self.in_place)}
        shards = [shard.to_dict() for shard in self.shards]
        fields = {
            "format": "teacher-cache-dataset",
            **place,
            "classes": list(self.classes),
            "num_samples": self.num_samples,
            "shards": shards,
            "index_sha256": self.index_sha256,
            "source": self.source,
        }
        return seal({**fields, "version": _version(fields)})


def _version(document: Mapping[str, Any]) -> int:
    """Return the version that a dataset.json with these fields has."""
    if "in_place" in document:
        return IN_PLACE_VERSION
    shards = document.get("shards")
    names = [set(shard) for shard in shards if isinstance(shard, dict)] if isinstance(shards, list) else []
    return REWRITTEN_VERSION if any("original_sha256" in each for each in names) else VERSION


class Index:
    """Index of the samples, row by row; row r is sample r % S of shard r // S.

    Attributes:
        keys: Sample keys, unique.
        offsets_N, sizes_N: Position and size of each image's bytes in its tar, int64 and int32.
        files_N: Index in `InPlace.files` of the file that holds each image; None unless in place.
        labels_N: Class ids of the samples, int32; -1 for a sample without a label.
    """

    def __init__(self, table: pa.Table) -> None:
        self.keys: pa.Array = table["key"].combine_chunks()
        self.offsets_N: npt.NDArray[np.int64] = column_of(table, "offset", np.int64)
        self.sizes_N: npt.NDArray[np.int32] = column_of(table, "size", np.int32)
        self.labels_N: npt.NDArray[np.int32] = column_of(table, "label", np.int32)
        self.files_N: npt.NDArray[np.int32] | None = None
        if "file" in table.column_names:
            self.files_N = column_of(table, "file", np.int32)
        self._sha256: pa.Array = table["sha256"].combine_chunks()

    def __len__(self) -> int:
        return len(self.keys)

    @functools.cached_property
    def is_labelled(self) -> bool:
        """Whether every sample has a label."""
        return bool((self.labels_N >= 0).all())

    def key(self, row: int) -> str:
        """Return the key of a row."""
        return self.keys[row].as_py()

    def image_sha256(self, row: int) -> str:
        """Return the sha256 of a row's image bytes, in hexadecimal."""
        return self._sha256[row].as_py().hex()

    def keys_sha256(self, start: int, stop: int) -> str:
        """Return a digest of the keys of rows [start, stop), in order."""
        return sha256_hex(canonical_json(self.keys[start:stop].to_pylist()))


def column_of(table: pa.Table, name: str, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return a column of numbers as an array, with -1 where it is null.

    Arrow's own to_numpy imports pandas where that is installed: 30 MB and 0.3 s in each process.
    """
    column = table[name].combine_chunks()
    validity, data = column.buffers()
    rows = slice(column.offset, column.offset + len(column))
    values_N = np.frombuffer(data or b"", dtype)[rows]
    if not column.null_count:
        return values_N
    is_valid_N = np.unpackbits(np.frombuffer(validity, np.uint8), bitorder="little")[rows]
    return np.where(is_valid_N, values_N, -1).astype(dtype)


def index_bytes(table: pa.Table) -> bytes:
    """Return the content of index.parquet."""
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", use_dictionary=False)
    return sink.getvalue()


def read_info(store: Store) -> DatasetInfo:
    """Read dataset.json.

    Raises:
        DatasetError: The file is missing, damaged, or of an unknown version.
    """
    size = store.stat_optional(DATASET_FILE)
    if size is not None and size > MAX_DATASET_BYTES:
        raise DatasetError(
            f"{store.path(DATASET_FILE)} has {size:,} bytes",
            f"More than {MAX_DATASET_BYTES:,} are never read.",
            "pack the dataset again, with a larger --shard-size",
        )
    try:
        document = unseal(store.get(DATASET_FILE, MAX_DATASET_BYTES))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DatasetError(
            f"{store.url} has no {DATASET_FILE}",
            "It is not a packed dataset.",
            "make one: teacher-cache pack SRC DST",
        ) from error
    except ValueError as error:
        raise DatasetError(
            f"{store.path(DATASET_FILE)} is damaged: {error}",
            "Its content cannot be trusted.",
            "pack the dataset again",
        ) from error
    known = _version(document)
    if document.get("format") != "teacher-cache-dataset" or document.get("version") != known:
        raise DatasetError(
            f"{store.path(DATASET_FILE)} has format {document.get('format')!r}, "
            f"version {document.get('version')!r}",
            f"This program reads teacher-cache-dataset versions {VERSION} to {REWRITTEN_VERSION}.",
            "use the release that packed it, or pack it again",
        )
    try:
        return msgspec.convert(document, DatasetInfo, strict=True)
    except msgspec.ValidationError as error:
        raise DatasetError(
            f"{store.path(DATASET_FILE)} holds an invalid value: {error}",
            "It was not made by this program, or by another version.",
            "pack the dataset again",
        ) from error
