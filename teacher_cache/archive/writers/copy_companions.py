"""Companions of a copy: those that stay, those about another manifest, and the figures of rows."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from teacher_cache.archive.format.companions import (
    FIGURES,
    ROWS_FILE,
    SIGNATURES,
    companions_of,
    get_companion,
    rows_copy,
)
from teacher_cache.archive.format.manifest import MANIFEST_FILE, Manifest
from teacher_cache.exact.canonical import sha256_hex
from teacher_cache.storage.store import Store


def copied_rows(source: Store | None, destination: Store, moved_sizes: list[int]) -> str | None:
    """Copy the figures of rows through a file, and return the sha256 of those at the destination.

    Args:
        source: Archive to copy from; None to copy nothing.
        moved_sizes: List to which the size of what is written is added.
    """
    with rows_copy(destination) as there:
        own = None if there is None else there[1]
    if source is None:
        return own
    with rows_copy(source) as rows:
        if rows is None or rows[1] == own:
            return own
        path, sha256 = rows
        if destination.batch_bytes:
            destination.put(ROWS_FILE, path.read_bytes())
        else:
            with destination.put_file(ROWS_FILE) as copy:
                shutil.copyfile(path, copy)
        moved_sizes.append(path.stat().st_size)
        return sha256


def kept_companions(
    destination: Store, manifest: Manifest, new: Mapping[str, bytes]
) -> tuple[dict[str, bytes], list[str]]:
    """Return the companions that stay beside the new ones, and the names of those about another manifest."""
    data = manifest.to_bytes()
    there = {name: content for name, content in companions_of(destination).items() if name not in new}
    if get_companion(destination, MANIFEST_FILE) == data:
        return there, []
    digest = sha256_hex(data).encode()
    about = {name.rpartition(".")[0] for name, content in there.items() if digest in content}
    stale = [
        name
        for name in (*there, *([ROWS_FILE] if destination.stat_optional(ROWS_FILE) is not None else []))
        if name.startswith(f"{FIGURES}/")
        or (name.startswith(f"{SIGNATURES}/") and name.rpartition(".")[0] not in about)
    ]
    return {name: content for name, content in there.items() if name not in stale}, stale
