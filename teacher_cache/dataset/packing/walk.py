"""Walk through tars or parquet files, on a disk or in a bucket, each byte read once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from teacher_cache.dataset.index import SourceFile
from teacher_cache.dataset.packing.journal import Done
from teacher_cache.dataset.sources.class_names import RawLabel, classes_of
from teacher_cache.dataset.sources.parquet import named_columns, read_schema, row_key, rows_of
from teacher_cache.dataset.sources.parquet_columns import Columns
from teacher_cache.dataset.sources.source import (
    META,
    NO_SAMPLE,
    LeftOut,
    Members,
    Sample,
    SourceOptions,
    key_of,
    readable,
)
from teacher_cache.dataset.sources.tar_members import parts_of, tar_samples
from teacher_cache.errors import DatasetError
from teacher_cache.exact.canonical import file_sha256
from teacher_cache.storage.store import Store
from teacher_cache.storage.streamed_file import RangeFile, StreamedFile


@dataclasses.dataclass(frozen=True, slots=True)
class ReadPlace:
    """Members of a sample that were read already, and their file and offset.

    Attributes:
        members: Image and other members.
        what: Name of the sample, for messages.
        file: Number of the file.
        offset: Offset of the image in a tar, or its row in a parquet file.
        number: Number of the sample in the file.
    """

    members: Members
    what: str
    file: int
    offset: int
    number: int

    def __str__(self) -> str:
        return self.what

    @property
    def num_bytes(self) -> int:
        """Size of the image in bytes."""
        return len(self.members.image)

    def read(self) -> Members:
        """Return the members; see Place."""
        return self.members


class RepeatedKeysError(Exception):
    """Sample keys repeat across tars."""


class Walk:
    """Samples of files in order, each byte read once.

    Attributes:
        files: Files that were read to their end, each with what was left out of it.
        notes: Assumptions, as text.
        image_column: Column of the images in parquet files; None for tars.
        listed: Class names in order, where they are known beforehand.
    """

    def __init__(
        self, source: Store, names: Sequence[str], options: SourceOptions, *, prefixed: bool
    ) -> None:
        self.source, self.names, self.options, self.prefixed = source, names, options, prefixed
        self.files: list[tuple[SourceFile, LeftOut]] = []
        self.notes: list[str] = []
        self.listed = options.classes
        self._columns: list[Columns] | None = None
        self.image_column = None
        self._first = self._skip = 0
        self._file_of_key: dict[str, int] = {}
        if names[0].endswith(".parquet"):
            paths = [Path(name) for name in names]
            schemas = []
            for name in names:
                with readable(name):
                    schemas.append(read_schema(RangeFile(source, name), name))
            self._columns, self.listed, self.notes = named_columns(paths, schemas, options)
            self.image_column = self._columns[0].image
        if prefixed:
            self.notes.append("sample keys repeat across tars; each key is prefixed with its tar's name")
        self._position = {name: number for number, name in enumerate(self.listed or ())}

    def go_on(self, done: Sequence[Done]) -> None:
        """Make iteration start after the samples of the finished shards."""
        for number, each in enumerate(done):
            for key, file in zip(each.index["key"].to_pylist(), each.index["file"].to_pylist(), strict=True):
                self._file_of_key[key] = file
            if number == len(done) - 1:
                self._first, self._skip = len(each.progress["files"]), each.progress["samples"]
                self.files = [
                    (SourceFile(**fields), LeftOut.from_json(left_out))
                    for fields, left_out in each.progress["files"]
                ]

    def progress(self, place: ReadPlace) -> dict[str, Any]:
        """Return the position after a sample as JSON values, which `go_on` reads from `Done.progress`."""
        files = [(dataclasses.asdict(file), out.to_json()) for file, out in self.files[: place.file]]
        return {"files": files, "samples": place.number + 1}

    def __iter__(self) -> Iterator[Sample]:
        for number in range(self._first, len(self.names)):
            left_out = LeftOut()
            samples = self._parquet(number) if self._columns else self._tar(number, left_out)
            for sample in samples:
                place = sample.place
                assert isinstance(place, ReadPlace)
                if number == self._first and place.number < self._skip:
                    continue
                self._check_key(sample.key, place)
                yield sample

    def _tar(self, number: int, left_out: LeftOut) -> Iterator[Sample]:
        name = self.names[number]
        with readable(name):
            stream = StreamedFile(self.source, name)
        prefix = f"{Path(name).stem}/" if self.prefixed else ""
        count = 0
        for found in tar_samples(stream, name, left_out, lambda _: True):  # type: ignore[arg-type]
            what = f"sample {found.name!r} in {name}"
            if META.match(found.name):
                left_out.add(what, NO_SAMPLE)
                continue
            parts = parts_of(found, what, self.options)
            others = {extension: found.data[extension] for extension in parts.others}
            members = Members(found.data[parts.image], others)
            place = ReadPlace(members, what, number, found.spans[parts.image][0], count)
            yield Sample(key_of(prefix + found.name), self._class_id(parts.label, what), place)
            count += 1
        with readable(name):
            file = SourceFile(name, stream.sha256(), stream.num_bytes)
        self.files[number:] = [(file, left_out)]

    def _parquet(self, number: int) -> Iterator[Sample]:
        assert self._columns is not None
        name = Path(self.names[number])
        with readable(name), self.source.local_copy(self.names[number]) as path:
            file = SourceFile(self.names[number], file_sha256(path), path.stat().st_size)
            rows = rows_of(path, self._columns[number], named=name, takes_paths=False)
            for row, (image, label) in enumerate(rows):
                what = f"row {row} of {name}"
                place = ReadPlace(Members(image, {}), what, number, row, row)
                yield Sample(row_key(name, row), self._class_id(label, what), place)
        self.files[number:] = [(file, LeftOut())]

    def _class_id(self, label: RawLabel, what: str) -> int | None:
        if isinstance(label, str) and self.listed is None:
            raise DatasetError(
                f"{what} is of class {label!r}, a name",
                "The order of the classes is known only when all files are read.",
                "give the classes in order: --classes FILE",
            )
        if isinstance(label, str) and label in self._position:
            return self._position[label]
        if label is None:
            return None
        return classes_of([label], lambda _: what, self.listed).labels[0]

    def _check_key(self, key: str, place: ReadPlace) -> None:
        other = self._file_of_key.get(key)
        if other is not None and other != place.file and not self.prefixed and self._columns is None:
            raise RepeatedKeysError
        self._file_of_key[key] = place.file
        if other is not None:
            raise DatasetError(
                f"key {key!r} occurs twice, the second time as {place}",
                "Samples with the same key could not be distinguished.",
                "rename or remove one; in a tar, put the members of a sample next to each other",
            )
