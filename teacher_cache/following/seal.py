"""Seal of an archive: its missing units, joined from units of one view each; and the order of these."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from teacher_cache.archive.format.calibration import copy_agreement
from teacher_cache.archive.format.layout import Layout, Unit
from teacher_cache.archive.format.receipts import Receipt
from teacher_cache.archive.readers.read_units import fetched
from teacher_cache.archive.writers.write import ArchiveWriter
from teacher_cache.following.job import JOB_FILE, Filling, Pair
from teacher_cache.labels.arrays import LabelArrays
from teacher_cache.program.progress import Track
from teacher_cache.storage.store import Store


def seal(
    archive: ArchiveWriter, units: Iterable[Unit], num_units: int, source: ArchiveWriter, track: Track
) -> None:
    """Write the missing units of an archive from units of one view each; no label changes.

    Args:
        source: Archive of the same labels in units of one view.

    Raises:
        DamagedError: An object of a one-view unit is missing, or does not have the sha256 of its receipt.
    """
    copy_calibration(source, archive)
    receipts = {(receipt.unit.shard, receipt.unit.block): receipt for receipt in source.receipts()}
    with track("seal", num_units, "units") as advance:
        for unit in units:
            views = [receipts[unit.shard, view] for view in unit.views]
            labels = [_labels(source.store, source.spec.layout, receipt) for receipt in views]
            together = LabelArrays(*(np.concatenate(arrays, axis=1) for arrays in zip(*labels, strict=True)))
            archive.commit(unit, together, views[0].keys_sha256)
            advance(1)


def students_first(missing: Iterable[Unit], look: Callable[[], Mapping[str, list[Pair]]]) -> Iterator[Unit]:
    """Yield the missing one-view units: those that students need next, in turn, then the others.

    Args:
        look: Function that returns, by student name, the (shard, view) pairs needed now, in order.
    """
    left = {(unit.shard, unit.block): unit for unit in missing}
    students: dict[str, tuple[list[Pair], Iterator[Pair]]] = {}
    turn = 0
    while left:
        for name, pairs in look().items():
            if name not in students or students[name][0] is not pairs:
                students[name] = (pairs, iter(pairs))
        names, turn = sorted(students), turn + 1
        of_each = (students[names[(turn + offset) % len(names)]][1] for offset in range(len(names)))
        wanted = (next((pair for pair in pairs if pair in left), None) for pairs in of_each)
        pair = next((pair for pair in wanted if pair is not None), None)
        yield left.pop(pair if pair is not None else next(iter(left)))


def copy_calibration(source: ArchiveWriter, destination: ArchiveWriter) -> None:
    """Copy the class affinity or the basis, and the agreement, where there are any."""
    layout, shared = source.spec.layout, source.shared
    if shared is not None:
        names = {array: layout.shared_name(array) for array in shared}
        objects = {array: fetched(source.store, names[array], digest) for array, digest in shared.items()}
        destination.put_shared(objects)
    copy_agreement(source.store, destination.store, source.spec)


def delete_if_sealed(filling: Filling, archive: ArchiveWriter, writer: ArchiveWriter) -> None:
    """Delete the filling; if it holds views of another job that the archive lacks, delete the status only."""
    held = set(one_view_units(receipt.unit for receipt in archive.receipts()))
    if {receipt.unit for receipt in writer.receipts()} <= held:
        filling.delete()
    else:
        filling.store.delete(JOB_FILE)


def one_view_units(units: Iterable[Unit]) -> list[Unit]:
    """Return the units of one view that cover the same views."""
    return [Unit(unit.shard, view, view, view + 1) for unit in units for view in unit.views]


def _labels(store: Store, layout: Layout, receipt: Receipt) -> LabelArrays:
    objects = {
        array: fetched(store, layout.object_name(array, receipt.unit), digest)
        for array, digest in receipt.objects.items()
    }
    return LabelArrays(*(values[: receipt.rows] for values in layout.decode_unit(objects)))
