"""What `pack` reads: class folders, Hugging Face style parquet, or WebDataset tars. All read at random."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from teacher_cache.errors import DatasetError, nearest
from teacher_cache.images import EXTENSIONS

_KEY = re.compile(r"[A-Za-z0-9_/-]+")
_SPLIT = re.compile(r"(train|test|validation|valid|val|dev)(?![a-z])")
"""Hugging Face and WebDataset name the files of a split so: train-00000-of-00002.parquet, val.tar."""
_UNREAD = ("bmp", "gif", "tif", "tiff", "ppm", "pgm", "avif", "heic")
_PARQUET_BATCH_ROWS = 256


class Members(NamedTuple):
    """What a source holds of one sample: its image, and anything else by extension."""

    image: bytes
    others: Mapping[str, bytes]


class Source(Protocol):
    """Labelled images, numbered from 0 in an order that depends on their names alone."""

    kind: str
    classes: list[str]
    keys: list[str]
    labels: list[int]

    def place(self, number: int) -> str:
        """Say where sample `number` comes from, for messages."""
        ...

    def read(self, number: int) -> Members:
        """Return what there is of sample `number`. Called from several threads."""
        ...


def open_source(
    path: str, *, split: str | None = None, image_column: str | None = None, label_column: str | None = None
) -> Source:
    """Open a folder or file as the kind of source it is.

    Args:
        path: A folder of class folders, of *.parquet or of *.tar; or one .parquet or .tar file.
        split: Which split's files to take, where the names of parquet files or tars tell several.
        image_column: Of parquet; found by its type if None.
        label_column: Likewise.

    Raises:
        DatasetError: There is nothing there, or nothing of a known kind.
    """
    root = Path(path)
    if not root.exists():
        raise DatasetError(f"source {path!r} does not exist", "There is nothing to pack.", "check the path")
    files = sorted(root.iterdir()) if root.is_dir() else [root]
    parquet = [file for file in files if file.suffix == ".parquet"]
    tars = [file for file in files if file.suffix == ".tar"]
    if parquet:
        return ParquetSource(_of_split(parquet, split), image_column, label_column)
    if tars:
        return TarSource(_of_split(tars, split))
    return FolderSource(_split_folder(root, split))


def _split_folder(root: Path, split: str | None) -> Path:
    """Return the folder of one split, where a folder's own folders are splits and not classes."""
    folders = _class_folders(root)
    splits = [folder.name for folder in folders if _SPLIT.fullmatch(folder.name)]
    if not splits or len(splits) < len(folders):
        return root
    if split not in splits:
        raise DatasetError(
            f"{root} holds the splits {', '.join(splits)}, not classes",
            "Packed together, a student would be trained on what it is tested on.",
            f"choose one: --split {splits[-1]}",
        )
    return root / split


def _of_split(files: list[Path], split: str | None) -> list[Path]:
    """Return the files of one split; refuse to mix several, which would train on the test set."""
    splits = {file: match[0] if (match := _SPLIT.match(file.stem)) else "" for file in files}
    found = sorted(set(splits.values()))
    if split is None and len(found) > 1:
        raise DatasetError(
            f"{files[0].parent} holds several splits: {', '.join(name or 'unnamed' for name in found)}",
            "Packed together, a student would be trained on what it is tested on.",
            f"choose one: --split {found[-1]}",
        )
    if split is not None and split not in found:
        raise DatasetError(
            f"{files[0].parent} has no split {split!r}",
            "There is nothing to pack.",
            f"found: {', '.join(found)}",
        )
    return [file for file in files if split in (None, splits[file])]


class FolderSource:
    """root/class name/.../image.jpg, as torchvision's ImageFolder reads it: classes in order of name."""

    kind = "folders"

    def __init__(self, root: Path) -> None:
        folders = _class_folders(root)
        found = [(label, file) for label, folder in enumerate(folders) for file in _images_under(folder)]
        if not found:
            raise DatasetError(
                f"source {str(root)!r} has no image in a class folder, no .parquet and no .tar",
                "There is nothing to pack.",
                f"give a folder of class folders with images ({', '.join(EXTENSIONS)})",
            )
        filled = {label for label, _ in found}
        empty = [folder.name for label, folder in enumerate(folders) if label not in filled]
        if empty:
            raise DatasetError(
                f"class folders without an image: {', '.join(empty[:5])}",
                "They would be classes that nothing belongs to.",
                f"remove them, or convert their images to {', '.join(EXTENSIONS)}",
            )
        self.classes = [folder.name for folder in folders]
        self.labels = [label for label, _ in found]
        self._files = [file for _, file in found]
        self.keys = [_clean_key(str(file.relative_to(root).with_suffix(""))) for file in self._files]

    def place(self, number: int) -> str:
        return str(self._files[number])

    def read(self, number: int) -> Members:
        return Members(self._files[number].read_bytes(), {})


class ParquetSource:
    """Rows of an image column ({bytes, path} or plain bytes) and an integer label column.

    Parquet cannot be read at random, so the images are first spooled to a nameless temporary file.
    """

    kind = "parquet"

    def __init__(self, files: Sequence[Path], image_column: str | None, label_column: str | None) -> None:
        with _readable(files[0]):
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
            with _readable(file):
                for batch in pq.ParquetFile(file).iter_batches(_PARQUET_BATCH_ROWS, columns=[image, label]):
                    images = batch.column(image)
                    self._append(images.field("bytes") if pa.types.is_struct(images.type) else images)
                    self.labels += batch.column(label).fill_null(-1).to_pylist()
            first = len(self.keys)
            stem = _clean_key(file.stem)
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

    def place(self, number: int) -> str:
        return f"row {self.keys[number]}"

    def read(self, number: int) -> Members:
        return Members(_pread(self._spool.fileno(), *self._spans[number]), {})


class TarSource:
    """WebDataset tars with an image and a `cls` (a class number) per sample; other members are kept."""

    kind = "webdataset"

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = [file.open("rb") for file in files]
        self._members: list[tuple[int, dict[str, tuple[int, int]]]] = []
        self.keys: list[str] = []
        self.labels: list[int] = []
        for number, file in enumerate(files):
            for key, members in _samples_of(file):
                self._append(number, file, key, members)
        if not self.keys:
            raise DatasetError(f"{files[0]} has no samples", "There is nothing to pack.", "check the path")
        self.classes = [str(number) for number in range(max(self.labels) + 1)]

    def _append(self, number: int, file: Path, key: str, members: dict[str, tuple[int, int]]) -> None:
        image = [extension for extension in members if extension.lower() in EXTENSIONS]
        if len(image) != 1 or "cls" not in members:
            raise DatasetError(
                f"sample {key!r} in {file} has members {', '.join(sorted(members))}",
                f"A sample needs one image ({', '.join(EXTENSIONS)}) and a cls.",
                "leave the sample out, or repack the source",
            )
        text = _pread(self._files[number].fileno(), *members["cls"])
        if not text.strip().isdigit():
            raise DatasetError(f"sample {key!r} in {file} has cls {text[:20]!r}", "A cls is a class number.")
        self.keys.append(key)
        self.labels.append(int(text))
        self._members.append((number, members))

    def place(self, number: int) -> str:
        return f"sample {self.keys[number]} in {self._files[self._members[number][0]].name}"

    def read(self, number: int) -> Members:
        file, members = self._members[number]
        data = {extension: _pread(self._files[file].fileno(), *span) for extension, span in members.items()}
        del data["cls"]
        extension = next(extension for extension in data if extension.lower() in EXTENSIONS)
        return Members(data.pop(extension), data)


def _samples_of(file: Path) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """Yield (key, extension -> (offset, size)) of a tar; neighbours of one key are one sample."""
    key: str | None = None
    members: dict[str, tuple[int, int]] = {}
    with _readable(file), tarfile.open(file, "r:") as tar:
        for member in tar:
            if member.isdir():
                continue
            stem, dot, extension = _split(member.name)
            if not member.isreg() or not dot or not _KEY.fullmatch(stem) or stem.startswith("/"):
                raise DatasetError(
                    f"member {member.name!r} of {file}",
                    "Only regular files named key.extension, of letters, digits, _, - and /, are read.",
                    "repack the source without it",
                )
            if stem != key:
                if key is not None:
                    yield key, members
                key, members = stem, {}
            if extension in members:
                raise DatasetError(f"member {member.name!r} is twice in {file}", "One would hide the other.")
            members[extension] = (member.offset_data, member.size)
    if key is not None:
        yield key, members


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Name the file in the errors of the libraries that read it."""
    try:
        yield
    except (pa.ArrowException, tarfile.TarError) as error:
        raise DatasetError(
            f"{file} cannot be read: {error}", "Nothing was packed.", "check that it is complete"
        ) from error


def _split(name: str) -> tuple[str, str, str]:
    """Split a member's name at the first dot of its last part, as WebDataset does."""
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    return folder + slash + stem, dot, extension


def _pread(handle: int, offset: int, size: int) -> bytes:
    return os.pread(handle, size, offset)


def _class_folders(root: Path) -> list[Path]:
    entries = root.iterdir() if root.is_dir() else ()
    return sorted(entry for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _images_under(folder: Path) -> list[Path]:
    """Return a class's images, sorted; refuse images of formats that would be left out in silence."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    unread = [file for file in files if file.suffix[1:].lower() in _UNREAD]
    if unread:
        raise DatasetError(
            f"{unread[0]} is of a format that is not read",
            "It would be missing.",
            f"convert it to {EXTENSIONS[0]}",
        )
    return [file for file in files if file.suffix[1:].lower() in EXTENSIONS]


def _clean_key(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_/-]", "_", text)


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
