"""Tars of packed datasets: bytes of a sample, and an index of every sample's offset, label and digest."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from teacher_cache import images
from teacher_cache.dataset.sources.source import META, Span
from teacher_cache.dataset.sources.tar_members import CLASS_EXTENSION, samples_of

_OWNER = "bigdata"
"""User and group in headers, as webdataset's TarWriter writes them (webdataset/writer.py)."""


def sample_bytes(key: str, members: Mapping[str, bytes]) -> tuple[bytes, dict[str, Span]]:
    """Return a sample as bytes of a tar, and the span of each member in these bytes, by extension."""
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


def index_tar(
    path: Path, shard: int, columns: dict[str, list[Any]], offsets_of: Mapping[str, str] | None = None
) -> None:
    """Append the position, label and digest of every sample of a tar, in its order, to the index's columns.

    Args:
        path: Tar of the samples.
        shard: Number of the tar.
        columns: Columns by name; see INDEX_SCHEMA.
        offsets_of: Further columns of offsets, by the extension of the located members.
    """
    with path.open("rb") as file:
        for key, members in samples_of(path):
            if META.match(key):
                continue
            columns["key"].append(key)
            columns["shard"].append(shard)
            columns["label"].append(None)
            for extension, (offset, size) in members.items():
                if extension == CLASS_EXTENSION:
                    columns["label"][-1] = int(os.pread(file.fileno(), size, offset))
                elif extension in images.EXTENSIONS:
                    columns["offset"].append(offset)
                    columns["size"].append(size)
                    columns["sha256"].append(hashlib.sha256(os.pread(file.fileno(), size, offset)).digest())
                elif offsets_of and extension in offsets_of:
                    columns[offsets_of[extension]].append(offset)
