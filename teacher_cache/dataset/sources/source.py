"""Common form of all sources of images: samples, locations of their bytes, and names that are left out."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import lzma
import os
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote, unquote_to_bytes

import pyarrow as pa

from teacher_cache.dataset.index import DatasetInfo
from teacher_cache.errors import DatasetError

_PLAIN = "A-Za-z0-9_/-"
KEY = re.compile(f"(?!/)(?:[{_PLAIN}]|%[0-9A-F]{{2}})+")
"""Pattern of sample keys: WebDataset ends a key at a dot, and a key cannot leave its folder."""
META = re.compile("__[^/]*__(/|$)")
"""Names of members that belong to no sample; WebDataset skips them (tariterators.py)."""


def key_of(name: str) -> str:
    """Return a name as a sample key, percent-encoded.

    Letters, digits, "_", "-" and "/" of ASCII stay; every other byte of the name becomes %XX, and so does the
    first underscore of a name that WebDataset would skip. Two names never become one key.
    """
    key = quote(os.fsencode(name), safe="/-_").replace(".", "%2E").replace("~", "%7E")
    return key.replace("_", "%5F", 1) if META.match(key) else key


def name_of(key: str) -> str:
    """Return the name that `key_of` made a key from."""
    return os.fsdecode(unquote_to_bytes(key))


Span = tuple[int, int]
"""Offset and size of a part of a file, in bytes."""


class Members(NamedTuple):
    """Members of one sample: its image, and all others by extension."""

    image: bytes
    others: Mapping[str, bytes]


class Place(Protocol):
    """Location of a sample's bytes; str() names it in messages. Several threads may call `read`."""

    def read(self) -> Members:
        """Return the image and the other members of the sample."""
        ...

    @property
    def num_bytes(self) -> int:
        """Size of the image in bytes."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class FilePlace:
    """A file that is one image."""

    file: str
    num_bytes: int

    def __str__(self) -> str:
        return self.file

    def read(self) -> Members:
        """Return the image; see Place."""
        return Members(Path(self.file).read_bytes(), {})


@dataclasses.dataclass(frozen=True, slots=True)
class SpanPlace:
    """Parts of a file that holds many samples.

    Attributes:
        file: File that holds the parts.
        what: Name of the sample in that file, for messages.
        image: Span of the image.
        others: Spans of the other members, by extension.
    """

    file: str
    what: str
    image: Span
    others: Mapping[str, Span]

    def __str__(self) -> str:
        return self.what

    @property
    def num_bytes(self) -> int:
        """Size of the image in bytes."""
        return self.image[1]

    def read(self) -> Members:
        """Return the image and the other members; see Place."""
        handle = os.open(self.file, os.O_RDONLY)
        try:
            others = {name: _pread(handle, span) for name, span in self.others.items()}
            return Members(_pread(handle, self.image), others)
        finally:
            os.close(handle)


class LabelTable(NamedTuple):
    """Rows of a table that gives images their labels.

    Attributes:
        where: The table's file, for messages.
        header: Names of the columns; None if the first row may hold them.
        rows: Cells of each row, in order of the columns: text, or plain values of JSON.
        lines: Line of each row in the file.
        folder: Folder that names of files are relative to; None for any folder above the images.
    """

    where: str
    header: Sequence[str] | None
    rows: Sequence[Sequence[Any]]
    lines: Sequence[int]
    folder: Path | None = None


class Sample(NamedTuple):
    """One image of a source.

    Attributes:
        key: Sample key; see `key_of`.
        label: Class id; None for an image without a label.
        place: Place of its bytes.
    """

    key: str
    label: int | None
    place: Place


def _pread(handle: int, span: Span) -> bytes:
    return os.pread(handle, span[1], span[0])


_MOST_LISTED = 10_000
"""Number of names listed for one reason; all are counted."""

HIDDEN = "hidden, or of the operating system"
NO_IMAGE = "not an image"
BROKEN_LINK = "a link to a file that does not exist"
NO_SAMPLE = "a member whose name is not key.extension, or begins like __this__"
NO_CLASS = "an image outside the class folders"
NO_ROW_IMAGE = "a row of the table of labels without an image"
_SYSTEM = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found")
_SYSTEM_FILES = ("Thumbs.db", "desktop.ini")


class LeftOut:
    """Names that are left out of a dataset, by reason."""

    def __init__(self, skipped: Iterable[tuple[str, str]] = ()) -> None:
        self._names: dict[str, list[str]] = {}
        self._counts: Counter[str] = Counter()
        for name, reason in skipped:
            self.add(name, reason)

    def add(self, name: str, reason: str) -> None:
        """Add a name."""
        self._counts[reason] += 1
        names = self._names.setdefault(reason, [])
        if len(names) < _MOST_LISTED:
            names.append(name)

    @classmethod
    def from_json(cls, reasons: Sequence[Mapping[str, Any]]) -> LeftOut:
        """Read the result of `to_json`."""
        found = cls()
        for reason in reasons:
            found._counts[reason["reason"]] += reason["count"]
            names = found._names.setdefault(reason["reason"], [])
            names += reason["names"][: _MOST_LISTED - len(names)]
        return found

    @classmethod
    def joined(cls, parts: Iterable[LeftOut]) -> LeftOut:
        """Return several collections as one."""
        return cls.from_json([reason for part in parts for reason in part.to_json()])

    def __len__(self) -> int:
        return self._counts.total()

    def count(self, reason: str) -> int:
        """Return the number of names left out for a reason."""
        return self._counts[reason]

    def to_json(self) -> list[dict[str, Any]]:
        """Return reasons in order of first use, each with its count and up to 10,000 names."""
        return [
            {"reason": reason, "count": self._counts[reason], "names": names}
            for reason, names in self._names.items()
        ]


def is_system(name: str) -> bool:
    """Return whether a file or folder is hidden, or made by an operating system and not by a person."""
    return name.startswith(".") or name in _SYSTEM or name in _SYSTEM_FILES


@dataclasses.dataclass(frozen=True)
class SourceOptions:
    """Options that select what to read from a path; by default only what is unambiguous is read.

    Attributes:
        split: Split to take, where names of files or folders show several.
        splits: Whether names such as train mean splits; False takes them for classes.
        unlabelled: Take images without labels, even where there are some.
        labels: Table that holds the labels of images in folders, in place of the folders' names.
        metadata: Whether metadata.csv and metadata.jsonl beside images hold their labels.
        image_column, label_column: Columns of parquet files; label_column also of a table of labels.
        image_key, label_key: Members of a tar's samples, by extension; label_key "json:FIELD" takes a field.
    """

    split: str | None = None
    splits: bool = True
    classes: Sequence[str] | None = None
    unlabelled: bool = False
    labels: LabelTable | None = None
    metadata: bool = True
    image_column: str | None = None
    label_column: str | None = None
    image_key: str | None = None
    label_key: str | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """Images with their labels, in an order that depends on their names alone.

    Attributes:
        kind: Kind of the source: folders, parquet or webdataset.
        classes: Class names in order of class id; empty if nothing names them.
        left_out: Files and members other than samples.
        notes: Assumptions, as text.
        keep: Object that must live as long as the samples are read, such as a temporary file.
        packed: Description of the packed dataset that the samples are read from; None for other sources.
    """

    kind: str
    classes: Sequence[str]
    samples: Sequence[Sample]
    left_out: LeftOut = dataclasses.field(default_factory=LeftOut)
    notes: Sequence[str] = ()
    keep: Any = None
    packed: DatasetInfo | None = None

    @property
    def keys(self) -> list[str]:
        """Keys of the samples."""
        return [sample.key for sample in self.samples]

    @property
    def labels(self) -> list[int | None]:
        """Class ids of the samples."""
        return [sample.label for sample in self.samples]


@contextlib.contextmanager
def readable(file: Path | str) -> Iterator[None]:
    """Turn errors of the libraries that read a file into a DatasetError that names it."""
    try:
        yield
    except DatasetError:
        raise
    except (
        *(pa.ArrowException, tarfile.TarError, gzip.BadGzipFile, lzma.LZMAError, zlib.error),
        *(OSError, EOFError, ValueError, OverflowError),
    ) as error:
        is_pointer = _begins_with(file, b"version https://git-lfs")
        raise DatasetError(
            f"{file} cannot be read: {'it is a pointer of Git LFS' if is_pointer else error}",
            "Nothing was packed.",
            "fetch the file itself: git lfs pull" if is_pointer else "check that it is complete",
        ) from error


def _begins_with(file: Path | str, head: bytes) -> bool:
    with contextlib.suppress(OSError), Path(file).open("rb") as stream:
        return stream.read(len(head)) == head
    return False
