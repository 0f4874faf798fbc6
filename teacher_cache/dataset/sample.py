"""Samples of a source: key, label, and the place of the bytes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

Span = tuple[int, int]
"""Offset and size of a part of a file, in bytes."""


class Members(NamedTuple):
    """Members of one sample: its image, and all others by extension."""

    image: bytes
    others: Mapping[str, bytes]


class Place(Protocol):
    """Place of a sample's bytes; text for messages. Several threads read."""

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


class Sample(NamedTuple):
    """One image of a source.

    Attributes:
        key: Sample key; see keys.py.
        label: Class id; None for an image without a label.
        place: Place of its bytes.
    """

    key: str
    label: int | None
    place: Place


def _pread(handle: int, span: Span) -> bytes:
    return os.pread(handle, span[1], span[0])
