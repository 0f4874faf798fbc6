"""Source of images in Hugging Face style parquet files."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from teacher_cache.dataset.source import Members, clean_key, pread, readable
from teacher_cache.errors import DatasetError, nearest

_BATCH_ROWS = 256


class ParquetSource:
    """Source of rows with an image column ({bytes, path} or plain bytes) and an integer label column.

    Parquet has no random access, so the images are first spooled to an unnamed temporary file.
    """

    kind = "parquet"

    def __init__(self, files: Sequence[Path], image_column: str | None, label_column: str | None) -> None:
        with readable(files[0]):
            schema = pq.read_schema(files[0])
        features = _hugging_face_features(schema)
        image = image_column or _find_column(schema, files[0], "image", _holds_images)
        label = label_column or _find_column(schema, files[0], "label", pa.types.is_integer)
        for column, fits in ((image, _holds_images), (label, pa.types.is_integer)):
            if column not in schema.names or not fits(schema.field(column).type):
                raise DatasetError(
                    f"{files[0]} has no column {column!r} of images or whole numbers",
                    "Its images or labels cannot be found.",
                    nearest(column, schema.names) or f"columns: {', '.join(schema.names)}",
                )
        self.keys: list[str] = []
        self.labels: list[int] = []
        self._spool = tempfile.TemporaryFile()
        self._spans: list[tuple[int, int]] = []
        for file in files:
            with readable(file):
                for batch in pq.ParquetFile(file).iter_batches(_BATCH_ROWS, columns=[image, label]):
                    images = batch.column(image)
                    self._append(images.field("bytes") if pa.types.is_struct(images.type) else images)
                    self.labels += batch.column(label).fill_null(-1).to_pylist()
            first = len(self.keys)
            stem = clean_key(file.stem)
            self.keys += [f"{stem}-{number - first:08d}" for number in range(first, len(self.labels))]
        if not self.labels:
            raise DatasetError(f"{files[0]} has no rows", "There is nothing to pack.", "check the path")
        self._spool.flush()
        names = features.get(label, {}).get("names")
        self.classes = names or [str(number) for number in range(max(self.labels) + 1)]

    def _append(self, images: pa.Array) -> None:
        for image in images:
            data = image.as_py() or b""
            self._spans.append((self._spool.tell(), len(data)))
            self._spool.write(data)

    def location(self, number: int) -> str:
        return f"row {self.keys[number]}"

    def read(self, number: int) -> Members:
        return Members(pread(self._spool.fileno(), *self._spans[number]), {})


def _hugging_face_features(schema: pa.Schema) -> dict[str, Any]:
    text = (schema.metadata or {}).get(b"huggingface")
    return json.loads(text)["info"]["features"] if text else {}


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" for field in kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _find_column(schema: pa.Schema, file: Path, what: str, fits: Any) -> str:
    found = [field.name for field in schema if fits(field.type)]
    if len(found) != 1:
        raise DatasetError(
            f"{file} has {len(found)} columns that could be the {what}: {', '.join(found) or 'none'}",
            f"The {what} column is not certain.",
            f"name it: --{what}-column NAME",
        )
    return found[0]
