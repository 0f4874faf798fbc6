"""Index a tar of this program's own: position, label and digest of every sample."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from teacher_cache import images
from teacher_cache.dataset.keys import META
from teacher_cache.dataset.tar_labels import CLASS_EXTENSION
from teacher_cache.dataset.tar_members import samples_of


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
