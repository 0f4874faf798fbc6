"""Source of images in Hugging Face style parquet files, and in the Arrow files that `save_to_disk` writes."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from teacher_cache.dataset.sources.class_names import RawLabel, check_unique, classes_of, has_repeats
from teacher_cache.dataset.sources.parquet_columns import Columns, find_columns
from teacher_cache.dataset.sources.source import (
    LeftOut,
    Sample,
    Source,
    SourceOptions,
    SpanPlace,
    key_of,
    readable,
)
from teacher_cache.errors import DatasetError, InputError
from teacher_cache.storage.places import path_inside

_BATCH_ROWS = 256


class Row(NamedTuple):
    """A row of a parquet file: the image's bytes, and the label as the file has it."""

    image: bytes
    label: RawLabel


def parquet_source(files: Sequence[Path], options: SourceOptions) -> Source:
    """Read rows with an image column ({bytes, path} or plain bytes) and a label column.

    Parquet has no random access, so the images are first spooled to a temporary file.

    Raises:
        DatasetError: A file cannot be read, its columns are not certain, or its labels do not fit.
    """
    schemas = [read_schema(str(file), str(file)) for file in files]
    columns, listed, names_notes = named_columns(files, schemas, options)
    spool: Any = tempfile.NamedTemporaryFile(prefix="teacher-cache-pack-")
    raw: list[RawLabel] = []
    places: list[SpanPlace] = []
    keys: list[str] = []
    for file, found in zip(files, columns, strict=True):
        for number, row in enumerate(rows_of(file, found)):
            what = f"row {number} of {file}"
            places.append(SpanPlace(spool.name, what, _append(spool, row.image), {}))
            raw.append(row.label)
            keys.append(row_key(file, number))
    if not raw:
        raise DatasetError(f"{files[0]} has no rows", "There is nothing to pack.", "check the path")
    spool.flush()
    classes = classes_of(raw, lambda number: str(places[number]), listed)
    if not options.unlabelled and all(label is None for label in raw):
        names_notes = [*names_notes, "no row has a label: the images are without labels"]
    rows = zip(keys, classes.labels, places, strict=True)
    samples = [Sample(*row) for row in rows]
    return Source("parquet", classes.names, samples, LeftOut(), [*names_notes, *classes.notes], keep=spool)


ARROW_SUFFIX = ".arrow"
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
"""Last bytes of an Arrow stream: arrow.apache.org/docs/format/Columnar.html, "IPC Streaming Format"."""


def read_schema(file: Any, name: str) -> pa.Schema:
    """Return the schema of a parquet or Arrow file, given as a path or an open file. Raises DatasetError."""
    with readable(name):
        if name.lower().endswith(ARROW_SUFFIX):
            with pa.OSFile(file) as stream, pa.ipc.open_stream(stream) as batches:
                return batches.schema
        return pq.read_schema(file)


def named_columns(
    files: Sequence[Path], schemas: Sequence[pa.Schema], options: SourceOptions
) -> tuple[list[Columns], Sequence[str] | None, list[str]]:
    """Return the columns of each file, the class names in order, and what was assumed.

    The class names of all files are joined in order of first appearance. Class ids of a file without names
    are indices into this list.

    Raises:
        DatasetError: See `find_columns`; or class ids could refer to several orders of names, or two classes
            of a file have one name.
    """
    columns = find_columns(files, schemas, options)
    lists: dict[tuple[str, ...], Path] = {}
    for file, found in zip(files, columns, strict=True):
        if found.names is not None:
            lists.setdefault(tuple(found.names), file)
    if options.classes is not None:  # names that do not tell classes apart: their ids do
        repeated = {names for names in lists if has_repeats(names)}
        columns = [
            found._replace(names=None) if tuple(found.names or ()) in repeated else found for found in columns
        ]
        lists = {names: file for names, file in lists.items() if names not in repeated}
    for names, file in lists.items():
        check_unique(names, str(file))
    listed = list(options.classes) if options.classes is not None else None
    notes = []
    if listed is None and lists:
        listed = list(dict.fromkeys(name for found in columns for name in found.names or ()))
        if len(lists) > 1:
            notes.append(
                f"files name their classes in {len(lists)} orders or choices; labels are mapped by name"
            )
        unnamed = [file for file, found in zip(files, columns, strict=True) if found.names is None]
        if unnamed and len(lists) > 1:
            raise DatasetError(
                f"{unnamed[0]} does not name its classes, and other files name them in {len(lists)} orders",
                "Its numbers could mean any of these orders.",
                "give the order: --classes FILE",
            )
        if unnamed:
            notes.append(f"{unnamed[0]} names no classes; its numbers are taken for the other files' classes")
    if listed is not None:
        columns = [
            found._replace(names=listed) if found.is_number and found.names is None else found
            for found in columns
        ]
    return columns, listed, notes


def row_key(file: Path, number: int) -> str:
    """Return the key of a row."""
    return key_of(f"{file.name.removesuffix('.parquet').removesuffix(ARROW_SUFFIX)}-{number:08d}")


def rows_of(
    file: Path, columns: Columns, *, named: Path | None = None, takes_paths: bool = True
) -> Iterator[Row]:
    """Yield the rows of a file.

    Args:
        columns: Columns of the images and labels.
        named: Name of the file in messages, if it is a copy.
        takes_paths: Whether a row without bytes may name an image file beside the table.

    Raises:
        DatasetError: The file is damaged, or a row has no image or label.
    """
    with readable(named or file):
        first, beside = 0, file.parent if takes_paths else None
        for batch in _batches(file, [name for name in (columns.image, columns.label) if name is not None]):
            yield from _rows_of_batch(named or file, columns, batch, first, beside)
            first += batch.num_rows


def _batches(file: Path, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
    if file.name.lower().endswith(ARROW_SUFFIX):
        with file.open("rb") as stream:
            stream.seek(-len(_END_OF_STREAM), os.SEEK_END)
            if stream.read() != _END_OF_STREAM:
                raise ValueError("it does not end as an Arrow stream does, and rows may be missing")
        with pa.OSFile(str(file)) as stream, pa.ipc.open_stream(stream) as batches:
            for batch in batches:
                yield batch.select(names)
    else:
        yield from pq.ParquetFile(file).iter_batches(_BATCH_ROWS, columns=names)


def _rows_of_batch(
    file: Path, columns: Columns, batch: pa.RecordBatch, first: int, beside: Path | None
) -> Iterator[Row]:
    """Yield the rows of a batch that begins at row `first` of a file."""
    images = _decoded(batch.column(columns.image))
    label_of = _label_of(columns)
    labels = [None] * batch.num_rows
    if columns.label is not None:
        labels = _decoded(batch.column(columns.label)).to_pylist()
    for number, (image, label) in enumerate(zip(images, labels, strict=True), first):
        try:
            yield Row(_bytes_of(image.as_py(), beside), label_of(label))
        except (ValueError, InputError) as error:
            raise DatasetError(
                f"row {number} of {file} {error.value if isinstance(error, InputError) else error}",
                "It cannot be packed.",
                "leave the row out, or choose another column",
            ) from error


def _decoded(column: pa.Array) -> pa.Array:
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _label_of(columns: Columns) -> Callable[[Any], RawLabel]:
    """Return a function from a label in a file to a class id or class name."""

    def label_of(value: Any) -> RawLabel:
        if columns.label is None:
            return None
        if value is None:
            raise ValueError(f"has no label: column {columns.label!r} is null")
        if not columns.is_number:
            return str(value)
        if columns.names is not None and value == -1:  # Hugging Face's mark of a label that is kept back
            return None
        if columns.names is not None:
            if not 0 <= value < len(columns.names):
                raise ValueError(f"has label {value}, but its file names {len(columns.names)} classes")
            return columns.names[value]
        return int(value)

    return label_of


def _bytes_of(value: Any, beside: Path | None) -> bytes:
    """Return the bytes in an image value, or those of the file in folder `beside` that it names."""
    if isinstance(value, bytes):
        return value
    data, path = (value or {}).get("bytes"), (value or {}).get("path")
    if data is not None:
        return data
    if not path:
        raise ValueError("has no image: neither bytes nor a path")
    named = None if beside is None else Path(path_inside(str(beside), path))
    if named is None or not named.is_file():
        raise ValueError(f"has no image bytes, only the path {path!r}; its file is missing or not allowed")
    return named.read_bytes()


def _append(spool: IO[bytes], data: bytes) -> tuple[int, int]:
    place = spool.tell()
    spool.write(data)
    return place, len(data)
