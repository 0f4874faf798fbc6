"""What a source of images is, and what the kinds of it share."""

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
"""What a sample key may look like: WebDataset ends a key at a dot, and no key can climb out of a folder."""


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

    def location(self, number: int) -> str:
        """Say where sample `number` comes from, for messages."""
        ...

    def read(self, number: int) -> Members:
        """Return what there is of sample `number`. Called from several threads."""
        ...


@contextlib.contextmanager
def readable(file: Path) -> Iterator[None]:
    """Name the file in the errors of the libraries that read it."""
    try:
        yield
    except (pa.ArrowException, tarfile.TarError) as error:
        raise DatasetError(
            f"{file} cannot be read: {error}", "Nothing was packed.", "check that it is complete"
        ) from error


def pread(handle: int, offset: int, size: int) -> bytes:
    """Return `size` bytes at `offset`, without moving the file's position: several threads read at once."""
    return os.pread(handle, size, offset)


def clean_key(text: str) -> str:
    """Replace what may not stand in a key by an underscore."""
    return re.sub(f"[^{_KEY_CHARACTERS}]", "_", text)
