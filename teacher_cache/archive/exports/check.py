"""Check an export before it is written, and let one that stopped go on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from teacher_cache.archive.format.tars import BASIS_FILE, basis_npy
from teacher_cache.archive.readers.source import LabelSource, view_ranges
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import ArchiveError
from teacher_cache.exact.canonical import seal
from teacher_cache.labels.arrays import BasisArrays
from teacher_cache.storage.store import Store

_PLAN = "exporting.json"
"""Request of an unfinished export; it is removed at the end."""


@contextlib.contextmanager
def exporting(
    kind: str, source: LabelSource, dataset: PackedDataset, views: range, destination: Store
) -> Iterator[None]:
    """Refuse an export that would be incomplete, or whose destination holds anything but its beginning.

    The basis of labels by components is written first, as codes mean nothing without it.

    Objects that the destination holds were written whole by the same request, and need not be written again.

    Raises:
        ArchiveError: The archive lacks a view, or does not belong to the dataset; the destination holds
            other files.
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
    asked = {"kind": kind, "labels": source.fingerprint, "dataset": dataset.info.sha256}
    plan = seal({**asked, "views": [views.start, views.stop]})
    destination.sweep()
    names = destination.list()
    if names and (_PLAN not in names or destination.get(_PLAN) != plan):
        raise ArchiveError(
            f"destination {destination.url} is not empty",
            "What lies there could be taken for part of the export.",
            "choose a new folder, or empty this one",
        )
    if not names:
        destination.put(_PLAN, plan)
    shared = source.checked_shared()
    if isinstance(shared, BasisArrays):
        destination.put(BASIS_FILE, basis_npy(shared))
    yield
    destination.delete(_PLAN)
