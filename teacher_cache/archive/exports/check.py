"""Check an export before it is written."""

from __future__ import annotations

from teacher_cache.archive.readers.source import LabelSource, view_ranges
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import ArchiveError
from teacher_cache.storage.store import Store


def check_export(source: LabelSource, dataset: PackedDataset, views: range, destination: Store) -> None:
    """Refuse an export that would be incomplete, or whose destination holds other files.

    Raises:
        ArchiveError: The archive lacks a view, or does not belong to the dataset; the destination is not
            empty.
    """
    source.check_replay(dataset.info)
    missing = sorted(set(views) - set(source.views))
    if missing or not views:
        raise ArchiveError(
            f"archive {source.url} holds views {view_ranges(source.views)}, not {view_ranges(missing)}",
            "They cannot be exported.",
            "extract more views, or ask for fewer with --views",
        )
    if source.shards is not None:
        raise ArchiveError(
            f"archive {source.url} is a part with labels of shards {view_ranges(source.shards)}",
            "The export would lack the labels of the other images.",
            "pull the rest first",
        )
    if destination.list():
        raise ArchiveError(
            f"destination {destination.url} is not empty",
            "What lies there could be taken for part of the export.",
            "choose a new folder, or empty this one",
        )
