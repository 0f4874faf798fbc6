"""Open labels by their URLs: an archive, tars that were exported from one, or several of these together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from teacher_cache.archive.format.tars import EXPORT_FILE
from teacher_cache.archive.format.trust import ANY, Trust, trust_of
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.archive.readers.ensemble import LabelEnsemble
from teacher_cache.archive.readers.read_tars import ExportReader
from teacher_cache.archive.readers.source import LabelSource
from teacher_cache.errors import InputError
from teacher_cache.storage.cache import DEFAULT_ROOM, CacheRoom
from teacher_cache.storage.store import Store

AnySource: TypeAlias = LabelSource | LabelEnsemble


def is_export(store: Store) -> bool:
    """Return whether a store holds an export."""
    return store.stat_optional(EXPORT_FILE) is not None


def open_labels(
    url: str | Path, room: CacheRoom = DEFAULT_ROOM, *, key: str | Path | None = None
) -> LabelSource:
    """Open an archive or an export.

    Args:
        url: Folder of the labels, or any URL fsspec opens.
        room: Folder and size limit of the cache of remote labels.
        key: File of public keys, one of which must have signed the archive; see docs/sharing.md.

    Raises:
        ArchiveError: The URL holds neither, or the labels are unfinished, damaged or not signed by the key.
        InputError: The key, or the user's own file of pinned keys, cannot be read.
    """
    return open_trusted(str(url), room, trust_of(key))


def open_trusted(url: str, room: CacheRoom, trust: Trust) -> LabelSource:
    """Open an archive or an export that must fulfil some conditions. Raises ArchiveError."""
    if is_export(Store(url)):
        trust.refuse_unsigned(url, "an export")
        return ExportReader(url, room)
    return ArchiveReader(url, room, trust)


@dataclasses.dataclass(frozen=True)
class LabelPlaces:
    """Archives or exports to open together.

    Attributes:
        urls: URL of each.
        room: Folder and size limit of the cache of remote labels.
        weights: Weight of each archive in an average over several teachers; equal by default.
        trust: Conditions that each of them must fulfil.
    """

    urls: Sequence[str]
    room: CacheRoom = DEFAULT_ROOM
    weights: Sequence[float] = ()
    trust: Trust = ANY

    def __post_init__(self) -> None:
        if self.weights and len(self.urls) < 2:
            raise InputError(
                f"--label-weights {' '.join(map(str, self.weights))} and only {len(self.urls)} archive",
                "There is nothing to weigh.",
                "give --labels several archives, or leave the weights out",
            )


def open_any(
    places: LabelPlaces, open_one: Callable[[str, CacheRoom, Trust], LabelSource] = open_trusted
) -> AnySource | None:
    """Open one archive or export, or several as an ensemble; return None if there are no URLs.

    Raises:
        ArchiveError: See `open_trusted` and `LabelEnsemble`.
        InputError: The weights do not fit the number of archives, or are not positive.
    """
    found = [open_one(url, places.room, places.trust) for url in places.urls]
    return LabelEnsemble(found, places.weights) if len(found) > 1 else found[0] if found else None
