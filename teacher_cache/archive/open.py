"""Open labels of either kind by their URL: an archive, or tars that were exported from one."""

from __future__ import annotations

from teacher_cache.archive.read import ArchiveReader
from teacher_cache.archive.read_tars import ExportReader
from teacher_cache.archive.source import LabelSource
from teacher_cache.archive.tars import EXPORT_FILE
from teacher_cache.storage.cache import CacheRoom
from teacher_cache.storage.store import Store

_ROOM = CacheRoom()


def open_labels(url: str, room: CacheRoom = _ROOM) -> LabelSource:
    """Open an archive or an export.

    Raises:
        ArchiveError: The URL holds neither, or the labels are unfinished or damaged.
    """
    is_export = Store(url).stat(EXPORT_FILE) is not None
    return ExportReader(url, room) if is_export else ArchiveReader(url, room)
