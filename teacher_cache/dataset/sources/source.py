"""Source of images as all kinds give it, and the refusal of files that a library cannot read."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from teacher_cache.dataset.index import DatasetInfo
from teacher_cache.dataset.sources.left_out import LeftOut
from teacher_cache.dataset.sources.sample import Sample
from teacher_cache.errors import DatasetError


@dataclasses.dataclass(frozen=True)
class SourceOptions:
    """Choices of what to take from a path; each None or default takes what is certain, or refuses.

    Attributes:
        split: Split to take, where names of files or folders show several.
        splits: Whether names may stand for splits; without it they are classes.
        unlabelled: Take images without labels, even where there are some.
        image_column, label_column: Columns of parquet files.
        image_key, label_key: Members of a tar's samples, by extension; label_key "json:FIELD" takes a field.
    """

    split: str | None = None
    splits: bool = True
    classes: Sequence[str] | None = None
    unlabelled: bool = False
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
