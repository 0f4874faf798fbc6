"""Columns of parquet files that hold images and labels: by name or by feature, never by type alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from teacher_cache.dataset.sources.source import SourceOptions
from teacher_cache.errors import DatasetError, nearest

_IMAGE_NAMES = ("image", "img", "images", "picture", "photo", "jpg", "jpeg", "png", "webp", "image_bytes")
_LABEL_NAMES = ("label", "labels")


class Columns(NamedTuple):
    """Columns of a file.

    Attributes:
        image: Column of the images.
        label: Column of the labels; None for a file without labels.
        names: Class names by class id, where the file gives them.
        is_number: Whether labels are class ids; text is mapped by name, also where the file gives names.
    """

    image: str
    label: str | None
    names: list[str] | None
    is_number: bool


def find_columns(
    files: Sequence[Path], schemas: Sequence[pa.Schema], options: SourceOptions
) -> list[Columns]:
    """Return the columns of every file.

    The image column is the one in the options, else the only Image in Hugging Face's features, else the only
    one named image or similar, else the only struct with a bytes field. The label column is the one in the
    options, else the only ClassLabel, else the only one named label.

    Raises:
        DatasetError: A column is missing, has an unsupported type, or is ambiguous.
    """
    features = [_features(schema) for schema in schemas]
    image = options.image_column or _find_image(files[0], schemas[0], features[0])
    label = options.label_column
    if label is None and not options.unlabelled:
        label = _find_label(files[0], schemas[0], features[0], image)
    found = []
    for file, schema, of_file in zip(files, schemas, features, strict=True):
        _check(file, schema, image, "--image-column", _holds_images, "images ({bytes, path} or bytes)")
        names = None
        if label is not None:
            _check(file, schema, label, "--label-column", _holds_labels, "whole numbers, text or booleans")
            names = of_file.get(label, {}).get("names")
        kind = None if label is None else _value_type(schema.field(label).type)
        is_number = kind is not None and (
            pa.types.is_integer(kind) or (pa.types.is_boolean(kind) and names is not None)
        )
        found.append(Columns(image, label, names, is_number))
    return found


def _features(schema: pa.Schema) -> dict[str, Any]:
    text = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(text)["info"]["features"] if text else {}
    except (ValueError, KeyError, TypeError):
        return {}
    return {name: value for name, value in features.items() if isinstance(value, dict)}


def _find_image(file: Path, schema: pa.Schema, features: dict[str, Any]) -> str:
    by_feature = [name for name, value in features.items() if value.get("_type") == "Image"]
    by_name = [name for name in schema.names if name.lower() in _IMAGE_NAMES]
    structs = [field.name for field in schema if _is_image_struct(field.type)]
    for found in (by_feature, by_name, structs):
        fitting = [name for name in found if name in schema.names and _holds_images(schema.field(name).type)]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise _uncertain(file, "image", fitting)
    raise DatasetError(
        f"{file} has no column of images that its name or its features identify",
        f"Its columns are {_listed(schema)}.",
        "name the column: --image-column NAME",
    )


def _find_label(file: Path, schema: pa.Schema, features: dict[str, Any], image: str) -> str | None:
    by_feature = [
        name
        for name, value in features.items()
        if value.get("_type") == "ClassLabel" and name in schema.names
    ]
    by_name = [name for name in schema.names if name.lower() in _LABEL_NAMES]
    for found in (by_feature, by_name):
        if len(found) == 1:
            return found[0]
        if found:
            raise _uncertain(file, "label", found)
    others = [field.name for field in schema if field.name != image and _holds_labels(field.type)]
    if others:
        raise DatasetError(
            f"{file} has no column named label and no ClassLabel, only {', '.join(others)}",
            "A column of numbers could hold ids of images, not classes.",
            "name the column: --label-column NAME; or pack the images without labels: --unlabelled",
        )
    return None


def _uncertain(file: Path, what: str, found: Sequence[str]) -> DatasetError:
    return DatasetError(
        f"{file} has {len(found)} columns that could be the {what}: {', '.join(found)}",
        f"The {what} column is not certain.",
        f"name it: --{what}-column NAME",
    )


def _check(file: Path, schema: pa.Schema, column: str, flag: str, fits: Any, what: str) -> None:
    if column not in schema.names:
        raise DatasetError(
            f"{file} has no column {column!r}",
            f"Its columns are {_listed(schema)}.",
            nearest(column, schema.names) or f"name one of these with {flag}",
        )
    if not fits(schema.field(column).type):
        raise DatasetError(
            f"column {column!r} of {file} holds {schema.field(column).type}",
            f"This column needs {what}; the columns are {_listed(schema)}.",
            f"name another with {flag}",
        )


def _listed(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} ({field.type})" for field in schema)


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_image_struct(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and {"bytes"} <= {field.name for field in kind}


def _holds_images(kind: pa.DataType) -> bool:
    kind = _value_type(kind)
    if pa.types.is_struct(kind):
        return any(
            field.name == "bytes" and (_is_binary(field.type) or pa.types.is_null(field.type))
            for field in kind
        )
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _holds_labels(kind: pa.DataType) -> bool:
    kind = _value_type(kind)
    text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_boolean)
    return pa.types.is_integer(kind) or any(is_kind(kind) for is_kind in text)
