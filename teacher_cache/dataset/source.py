"""Protocol of image sources, and helpers that all kinds of source share."""

from __future__ import annotations

import contextlib
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import pyarrow as pa

from teacher_cache.errors import DatasetError

_KEY_CHARACTERS = "A-Za-z0-9_/-"
KEY = re.compile(f"[{_KEY_CHARACTERS}]+")
"""Pattern of sample keys: WebDataset ends a key at a dot, and a key cannot leave its folder."""


class Members(NamedTuple):
    """Members of one sample: its image, and all others by extension."""

    image: bytes
    others: Mapping[str, bytes]


class Source(Protocol):
    """Source of labelled images, numbered from 0 in an order that depends on their names alone."""

    kind: str
    classes: list[str]
    keys: list[str]
    labels: list[int]

    def location(self, number: int) -> str:
        """Return the origin of sample `number`, for messages."""
        ...

    def read(self, number: int) -> Members:
        """Return the image and other members of sample `number`. Several threads call this."""
        ...


@contextlib.contextmanager
def readable(file: Path) -> Iterator[None]:
    """Turn errors of the libraries that read a file into a DatasetError that names it."""
    try:
        yield
    except (pa.ArrowException, tarfile.TarError) as error:
        raise DatasetError(
            f"{file} cannot be read: {error}", "Nothing was packed.", "check that it is complete"
        ) from error


def pread(handle: int, offset: int, size: int) -> bytes:
    """Return `size` bytes at `offset`, without moving the file's position, so that threads can share it."""
    return os.pread(handle, size, offset)


def clean_key(text: str) -> str:
    """Replace characters that a key may not contain by underscores."""
    return re.sub(f"[^{_KEY_CHARACTERS}]", "_", text)
