"""Fill an archive while students follow: units of one view in the order of their need, then the seal."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import time
from collections.abc import Iterator

from pipelines.extraction.engines.engine import Event, UnitDone, first_line
from pipelines.extraction.planning.estimate import Estimate, ExtractReport
from pipelines.extraction.planning.prepare import Extraction, Prepared
from pipelines.extraction.queue import MissingUnits
from pipelines.extraction.running.units import close, run
from teacher_cache.archive.format.layout import Unit
from teacher_cache.archive.format.manifest import complete_views
from teacher_cache.archive.format.receipts import Receipt
from teacher_cache.archive.writers.write import ArchiveWriter
from teacher_cache.following.job import Filling, News, Pair
from teacher_cache.following.seal import (
    copy_calibration,
    delete_if_sealed,
    one_view_units,
    seal,
    students_first,
)
from teacher_cache.program.progress import Advance, Track

_TOLD_EVERY_S = 2.0
"""Seconds between two writes of the job's status, and between two reads of the students' orders."""


def fill(extraction: Extraction, prepared: Prepared, found: Estimate | None, track: Track) -> ExtractReport:
    """Compute the missing labels in the order that students need, seal the archive, and return a report.

    Args:
        extraction: Labels to compute; its workers write one view at a time beside the archive.

    Raises:
        TeacherCacheError: The run cannot continue. Finished units stay, and the status says `failed`.
    """
    archive = prepared.writer
    filling = Filling(archive.store)
    spec = dataclasses.replace(archive.spec, views_per_unit=1)
    writer = ArchiveWriter.open(filling.labels, spec)
    copy_calibration(archive, writer)
    receipts = archive.receipts()
    finished = one_view_units(receipt.unit for receipt in receipts)
    done = [*finished, *(receipt.unit for receipt in writer.receipts())]
    missing = MissingUnits(spec.layout, extraction.request.views, done)
    publisher = _Publisher(filling, _views_at_the_end(prepared, receipts), len(missing))
    inner = Prepared(writer, {}, missing, prepared.is_labelled, prepared.is_calibrated)
    tracking, order, hear = publisher.tracking(track), publisher.order, publisher.hear
    with publisher.publishing():
        report = run(extraction, inner, found, tracking, order=order, hear=hear)
    if report.quarantined:
        names = ", ".join(report.quarantined)
        publisher.publish("failed", f"units {names} were given up: {next(iter(report.quarantined.values()))}")
        return report
    seal(archive, prepared.missing, len(prepared.missing), writer, track)
    sealed = close(prepared, None, 0.0, {}, report.agreement)
    delete_if_sealed(filling, archive, writer)
    return dataclasses.replace(
        report, labels=sealed.labels, label_bytes=sealed.label_bytes, fingerprint=sealed.fingerprint
    )


class _Publisher:
    """Publishes a job's status, and reads the order that students ask for."""

    def __init__(self, filling: Filling, views: list[Pair], num_units: int) -> None:
        self._filling, self._views, self._units, self._done = filling, views, num_units, 0
        self._told_s = self._looked_s = float("-inf")
        self._students: dict[str, list[Pair]] = {}

    def order(self, missing: MissingUnits) -> Iterator[Unit]:
        """Yield the missing units in the order that students need."""
        return students_first(missing, self._look)

    def hear(self, event: Event) -> None:
        """Count the units that are done."""
        self._done += isinstance(event, UnitDone) and isinstance(event.unit, Unit)
        self.publish()

    def publish(self, state: str = "running", why: str = "") -> None:
        """Write the status of the job, at most every few seconds while it runs."""
        now_s = time.monotonic()
        if state != "running" or now_s - self._told_s >= _TOLD_EVERY_S:
            self._told_s = now_s
            told = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            news = News(state, self._views, self._units, self._done, told, why[:4096])  # type: ignore[arg-type]
            self._filling.tell(news)

    @contextlib.contextmanager
    def publishing(self) -> Iterator[None]:
        """Publish the status `running`, and `stopped` or `failed` if the block is interrupted or raises."""
        self.publish()
        try:
            yield
        except KeyboardInterrupt:
            self.publish("stopped")
            raise
        except Exception as error:
            self.publish("failed", first_line(error))
            raise

    def tracking(self, track: Track) -> Track:
        """Return a progress display that also publishes the status."""

        @contextlib.contextmanager
        def tracked(what: str, total: int, unit: str) -> Iterator[Advance]:
            with track(what, total, unit) as advance:

                def show(count: int, note: str = "") -> None:
                    self.publish()
                    advance(count, note)

                yield show

        return tracked

    def _look(self) -> dict[str, list[Pair]]:
        now_s = time.monotonic()
        if now_s - self._looked_s >= _TOLD_EVERY_S:
            self._looked_s = now_s
            self._students = self._filling.wanted()
        return self._students


def _views_at_the_end(prepared: Prepared, receipts: list[Receipt]) -> list[Pair]:
    """Return the ranges of views that every shard will have once the missing units are written."""
    spec = prepared.writer.spec
    elsewhere = [receipt for receipts in prepared.writer.extends.values() for receipt in receipts]
    missing = [Receipt(unit, spec.rows(unit.shard), "", {}) for unit in prepared.missing]
    return complete_views(spec.layout.num_shards, [*receipts, *elsewhere, *missing])
