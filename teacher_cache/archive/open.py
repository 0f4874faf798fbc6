"""Open labels by their URLs: an archive, tars that were exported from one, or several of these together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TypeAlias

from teacher_cache.archive.format.tars import EXPORT_FILE
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.archive.readers.ensemble import LabelEnsemble
from teacher_cache.archive.readers.follow import Patience, open_following
from teacher_cache.archive.readers.read_tars import ExportReader
from teacher_cache.archive.readers.source import LabelSource
from teacher_cache.errors import InputError
from teacher_cache.storage.cache import DEFAULT_ROOM, CacheRoom
from teacher_cache.storage.store import Store

AnySource: TypeAlias = LabelSource | LabelEnsemble


@dataclasses.dataclass(frozen=True)
class LabelPlaces:
    """Archives or exports to open together.

    Attributes:
        urls: URL of each.
        room: Folder and size limit of the cache of remote labels.
        weights: Weight of each of several teachers; equal by default.
        following: How to wait for labels that jobs are still making; None opens only finished ones.
    """

    urls: Sequence[str]
    room: CacheRoom = DEFAULT_ROOM
    weights: Sequence[float] = ()
    following: Patience | None = None

    def __post_init__(self) -> None:
        if self.weights and len(self.urls) < 2:
            raise InputError(
                f"--label-weights {' '.join(map(str, self.weights))} with {len(self.urls)} archives",
                "There is nothing to weigh.",
                "give --labels several archives, or leave the weights out",
            )


def open_any(places: LabelPlaces) -> AnySource | None:
    """Open one archive or export, or several as an ensemble; return None if there are no URLs.

    Raises:
        ArchiveError: See `open_labels` and `LabelEnsemble`.
        InputError: The weights do not fit the number of archives, or are not positive.
    """
    found = [_open(url, places.room, places.following) for url in places.urls]
    return LabelEnsemble(found, places.weights) if len(found) > 1 else found[0] if found else None


def _open(url: str, room: CacheRoom, following: Patience | None) -> LabelSource:
    if following is None or _is_export(url):
        return open_labels(url, room)
    return open_following(url, room, following)


def _is_export(url: str) -> bool:
    return Store(url).stat(EXPORT_FILE) is not None


def open_labels(url: str, room: CacheRoom = DEFAULT_ROOM) -> LabelSource:
    """Open an archive or an export.

    Args:
        url: Folder of the labels, or any URL fsspec opens.
        room: Folder and size limit of the cache of remote labels.

    Raises:
        ArchiveError: The URL holds neither, or the labels are unfinished or damaged.
    """
    return ExportReader(url, room) if _is_export(url) else ArchiveReader(url, room)
