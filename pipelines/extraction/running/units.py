"""Run the missing units of an archive on an engine, record the run, and close the archive."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pipelines.extraction.engines.engine import Engine, Event
from pipelines.extraction.planning.estimate import Estimate, ExtractReport
from pipelines.extraction.planning.prepare import Extraction, Prepared
from pipelines.extraction.queue import MissingUnits, UnitQueue
from pipelines.extraction.running.calibration import calibrate, check_agreement
from pipelines.extraction.running.record import RunRecord
from teacher_cache.archive.format.calibration import delete_parts
from teacher_cache.archive.format.layout import Unit
from teacher_cache.errors import InputError, StoreError, TeacherCacheError
from teacher_cache.labels.agreement import Agreement
from teacher_cache.program.progress import Track
from teacher_cache.storage.store import Store

_LOG = logging.getLogger(__name__)


def _ignore(event: Event) -> None:
    """Do nothing."""
    del event


def run(
    extraction: Extraction,
    prepared: Prepared,
    found: Estimate | None,
    track: Track,
    *,
    order: Callable[[MissingUnits], Iterable[Unit]] = iter,
    hear: Callable[[Event], object] = _ignore,
) -> ExtractReport:
    """Run the missing units, and record the run beside the archive.

    Args:
        extraction: Labels to compute, and the engine that runs the units.
        order: Function that returns the missing units in the order to run.
        hear: Function that is called with every event.
    """
    request, engine = extraction.request, extraction.engine
    record = RunRecord(request.run_folder or new_run(request.archive), _utc_now, request.max_gpu_hours)
    num_views = found.views if found else 0
    about = _describe_run(extraction, prepared, num_views)
    record.tell("run_started", **about)
    about = {name: about[name] for name in ("fingerprint", "device")}
    about["estimate"] = found and dataclasses.asdict(found)
    given_up: dict[str, str] = {}
    state, begun_s = "failed", time.monotonic()
    try:
        calibration = calibrate(extraction, prepared, record, track)
        given_up |= calibration.given_up
        agreement = about["agreement"] = calibration.agreement and dataclasses.asdict(calibration.agreement)
        if prepared.calibration:
            record.tell("calibration_failed" if given_up else "calibrated", **given_up, agreement=agreement)
        check_agreement(extraction, calibration.agreement)
        start_s = time.monotonic()
        queue = UnitQueue(
            order(prepared.missing), retries=request.retries, max_quarantined=request.max_quarantined
        )
        needs_basis = prepared.writer.spec.labels.components is not None
        if not record.is_over_limit and not (needs_basis and given_up):
            _do_units(engine, queue, record, num_views, track, hear)
        _check_limit(record, request.max_gpu_hours)
        given_up |= {unit.name: reason for unit, reason in queue.quarantined.items()}
        _check_all_done(prepared, record, given_up)
        report = close(prepared, record, time.monotonic() - start_s, given_up, calibration.agreement)
        state = "incomplete" if given_up else "finished"
        return report
    except KeyboardInterrupt:
        state = "stopped"
        raise
    except TeacherCacheError as error:
        about["error"] = error.value
        raise
    finally:
        try:
            record.close(state, time.monotonic() - begun_s, given_up, about)
        except (StoreError, OSError) as error:  # a lost record must not fail a run, or hide why it failed
            _LOG.warning("the record of this run is not whole: %s", error)


def _describe_run(extraction: Extraction, prepared: Prepared, num_views: int) -> dict[str, Any]:
    return {
        "fingerprint": prepared.writer.spec.fingerprint,
        "engine": extraction.request.engine.name,
        "device": extraction.worker.device,
        "workers": extraction.engine.num_workers,
        "units": len(prepared.missing),
        "units_done": prepared.missing.num_asked - len(prepared.missing),
        "views": num_views,
    }


def _do_units(
    engine: Engine,
    queue: UnitQueue,
    record: RunRecord,
    num_views: int,
    track: Track,
    hear: Callable[[Event], object],
) -> None:
    with track("extract", num_views, "views") as advance:
        for event in engine.run(queue, lambda views: advance(views, record.note(len(queue.quarantined)))):
            record.add(event)
            hear(event)
            record.check_limit(queue, engine.num_workers)


def _check_limit(record: RunRecord, max_gpu_hours: float | None) -> None:
    if record.is_over_limit:
        raise TeacherCacheError(
            f"--max-gpu-hours {max_gpu_hours:g} would be passed: {record.gpu_s / 3600:.3g} hours are used up",
            "The run stopped; its finished units are kept.",
            "run the same command again: the limit is for each run; or give a higher limit",
        )


def _check_all_done(prepared: Prepared, record: RunRecord, given_up: Mapping[str, str]) -> None:
    if not given_up and record.units != len(prepared.missing):
        raise TeacherCacheError(
            f"{record.units:,} of {len(prepared.missing):,} units were done, and none was given up",
            "The archive would have holes, so it is not finished.",
            "run the same command again, and report this",
        )


def close(
    prepared: Prepared,
    record: RunRecord | None,
    seconds: float,
    quarantined: dict[str, str],
    agreement: Agreement | None,
) -> ExtractReport:
    """Finish the archive, unless units were given up, and return the report."""
    writer = prepared.writer
    if not quarantined:
        delete_parts(writer.store)  # of a calibration that another driver had finished
    receipts = writer.receipts() if quarantined else writer.finish(prepared.extends).all_receipts
    return ExtractReport(
        units=record.units if record else 0,
        views=record.total.views if record else 0,
        seconds=round(seconds, 3),
        labels=sum(receipt.rows * len(receipt.unit.views) for receipt in receipts),
        label_bytes=sum(receipt.num_bytes for receipt in receipts),
        fingerprint=writer.spec.fingerprint,
        quarantined=quarantined,
        run=record.url if record else None,
        calibration_views=record.calibration.views if record else 0,
        agreement=agreement,
    )


def new_run(archive: Store) -> Store:
    """Return a new folder beside an archive. Raises InputError if the archive is a whole bucket."""
    if "/" not in archive.url.partition("://")[2].strip("/") and not archive.is_local:
        raise InputError(
            f"--out {archive.url} is a whole bucket",
            "The run's events are written beside the archive, and a bucket has nothing beside it.",
            "choose a folder in the bucket, or give --run-dir",
        )
    name = archive.root.rpartition("/")[2]
    return archive.beside(f"../{name}.runs/{_utc_now():%Y%m%dT%H%M%S}-{secrets.token_hex(2)}")


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
