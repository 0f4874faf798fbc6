"""Copy an archive, or the views, shards and classes of it that are asked for, from one place to another."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from teacher_cache.archive.figures.figures import figures_of
from teacher_cache.archive.format.part import Position
from teacher_cache.archive.format.receipts import Receipt
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.archive.readers.source import view_ranges
from teacher_cache.archive.writers.copy import CopyReport, CopyRequest, copy_archive
from teacher_cache.errors import InputError, nearest
from teacher_cache.program.progress import Track
from teacher_cache.storage.store import Store


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShareRequest(CopyRequest):
    """Archive to copy, or its views, shards and classes that are given; None and () take all."""

    views: range | None = None
    shards: range | None = None
    classes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class ShareReport(CopyReport):
    """Report of a push or pull.

    Attributes:
        destination: URL of the copy.
        notes: Lines that say where more than was asked for is copied.
        views: View indices that every labelled shard of the copy has.
        shards: Image shards that have labels; None for all.
    """

    destination: str
    notes: list[str]
    views: list[int]
    shards: tuple[int, ...] | None

    @property
    def lines(self) -> list[str]:
        """Return the report as text."""
        shards = "all shards" if self.shards is None else f"shards {view_ranges(self.shards)}"
        return [
            *self.notes,
            *(f"{name} arrived damaged, and was fetched again" for name in self.fetched_again),
            f"{self.units:,} units copied, {self.moved_bytes:,} bytes in all; "
            f"{self.units_there:,} units, {self.there_bytes:,} bytes, already present",
            f"{self.destination}: views {view_ranges(self.views)} of {shards}, "
            f"{self.covers:,} of the archive's {self.of:,} units",
        ]


def share(request: ShareRequest, track: Track) -> ShareReport:
    """Copy the requested units and the documents that describe them, and return a report.

    Raises:
        InputError: No unit is in the views, shards and classes asked for; see also `copy_archive`.
    """
    notes: list[str] = []
    source, destination = request.source.pinned(), request.destination
    if source.url != request.source.url:
        notes.append(f"{request.source.url} is now {source.url}")
    of_classes = _shards_of_classes(request, source, notes) if request.classes else None

    def choose(units: Mapping[Position, Receipt]) -> set[Position]:
        return {
            position
            for position in _chosen(request, units, notes)
            if of_classes is None or position[0] in of_classes
        }

    report = copy_archive(
        dataclasses.replace(request, source=source, named=request.source.url), choose, track
    )
    copy = ArchiveReader(destination.url)
    return ShareReport(
        **{field.name: getattr(report, field.name) for field in dataclasses.fields(report)},
        destination=destination.url,
        notes=notes,
        views=copy.views,
        shards=copy.shards,
    )


def _shards_of_classes(request: ShareRequest, source: Store, notes: list[str]) -> set[int]:
    """Return the image shards that have a sample of one of some classes, as the archive's figures say."""
    names, figures = request.classes, figures_of(ArchiveReader(source.url, trust=request.trust))
    if figures is None or not figures.labelled_rows:
        raise InputError(
            f"--classes {' '.join(names)}: {source.url} has no figures of the shards that have each class",
            "The shards to copy are not known.",
            "give --shards; or measure the archive: teacher-cache card ARCHIVE --data DATASET",
        )
    numbers = {name: number for number, name in enumerate(figures.classes)}
    shards: set[int] = set()
    for name in names:
        number = numbers.get(name, int(name) if name.isdecimal() else -1)
        if not 0 <= number < len(figures.rows_C):
            raise InputError(
                f"--classes {name}",
                f"The archive has {len(figures.rows_C):,} classes, none of that name or number.",
                nearest(name, numbers) or "give names or numbers from 0",
            )
        for first, stop in figures.shards_C[number]:
            shards.update(range(first, stop))
    notes.append(
        f"{len(names):,} classes have samples in {len(shards):,} shards, {view_ranges(sorted(shards))}, "
        "which are copied whole"
    )
    return shards


def _chosen(request: ShareRequest, units: Mapping[Position, Receipt], notes: list[str]) -> set[Position]:
    """Return the positions of the units with requested labels; add their other views to `notes`."""
    views, shards = request.views, request.shards
    chosen = {
        position: receipt.unit
        for position, receipt in units.items()
        if (views is None or set(views) & set(receipt.unit.views))
        and (shards is None or position[0] in shards)
    }
    besides = {view for unit in chosen.values() for view in unit.views} - set(views or ())
    if views is not None and besides:
        ranges = view_ranges(sorted(besides))
        notes.append(f"views {ranges} come with those asked for: units are copied whole")
    return set(chosen)
