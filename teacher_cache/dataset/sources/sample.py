"""Samples of a source: key, label, and the place of the bytes."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import quote, unquote_to_bytes

_PLAIN = "A-Za-z0-9_/-"
KEY = re.compile(f"(?!/)(?:[{_PLAIN}]|%[0-9A-F]{{2}})+")
"""Pattern of sample keys: WebDataset ends a key at a dot, and a key cannot leave its folder."""
META = re.compile("__[^/]*__(/|$)")
"""Names of members that belong to no sample; WebDataset skips them (tariterators.py)."""


def key_of(name: str) -> str:
    """Return a file name, without its suffix, as a key.

    Letters, digits, "_", "-" and "/" of ASCII stay; every other byte of the name becomes %XX, and so do the
    underscores that begin a name which WebDataset would skip. Two names never become one key.
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
