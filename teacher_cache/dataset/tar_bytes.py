"""Bytes of a packed tar, sample by sample: the same samples give the same bytes, in any process."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping

from teacher_cache.dataset.sample import Span

_OWNER = "bigdata"
"""User and group of webdataset's own TarWriter, whose bytes these are (webdataset/writer.py)."""


def sample_bytes(key: str, members: Mapping[str, bytes]) -> tuple[bytes, dict[str, Span]]:
    """Return a sample's part of a tar, and the spans of its members in that part, by extension."""
    parts = io.BytesIO()
    spans = {}
    for extension in sorted(members):
        data = members[extension]
        header = tarfile.TarInfo(f"{key}.{extension}")
        header.size, header.mtime, header.mode = len(data), 0, 0o444
        header.uname = header.gname = _OWNER
        parts.write(header.tobuf(tarfile.PAX_FORMAT))
        spans[extension] = (parts.tell(), len(data))
        parts.write(data)
        parts.write(bytes(-len(data) % tarfile.BLOCKSIZE))
    return parts.getvalue(), spans


def end_bytes(num_bytes: int) -> bytes:
    """Return the end of a tar whose samples take `num_bytes`: two empty blocks, and zeros to a record."""
    end = 2 * tarfile.BLOCKSIZE
    return bytes(end + -(num_bytes + end) % tarfile.RECORDSIZE)
