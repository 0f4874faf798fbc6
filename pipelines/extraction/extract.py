"""Extraction job: find the missing units, run them on an engine, and close the archive.

The job holds neither images nor the teacher: the workers do. If these are Ray actors, this process imports no
torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
import logging
import pkgutil
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.extraction.calibration import calibrate, check_agreement
from pipelines.extraction.engines.engine import Advance, Engine, Worker
from pipelines.extraction.estimate import Estimate, check_gpu_hours
from pipelines.extraction.measure import measured_estimate
from pipelines.extraction.order import Description, WorkOrder
from pipelines.extraction.prepare import Prepared, archive_spec, begin, prepare
from pipelines.extraction.queue import UnitQueue
from pipelines.extraction.record import RunRecord
from pipelines.extraction.report import ExtractReport, Plan
from pipelines.extraction.take import as_shelved, shelves_of, take, taken_of, units_to_take
from pipelines.flags.engines import ENGINES
from pipelines.flags.extract import ExtractConfig, PlanConfig
from teacher_cache.archive.calibration import delete_parts
from teacher_cache.archive.companions import are_figures_current
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import InputError, StoreError, TeacherCacheError
from teacher_cache.labels.agreement import Agreement
from teacher_cache.labels.arrays import check_topk
from teacher_cache.program.flags import with_absolute_paths
from teacher_cache.program.progress import Track
from teacher_cache.storage.store import Store
from teacher_cache.views import recipe as recipes
from teacher_cache.views.recipe import Recipe

_LOG = logging.getLogger(__name__)


def extract(config: ExtractConfig, track: Track) -> ExtractReport:
    """Compute the requested labels that are missing, and finish the archive.

    If units were given up, the archive is not finished: a finished archive never has holes.

    Raises:
        InputError: The request is wrong; see also `prepare`. Nothing in the archive is lost.
        TeacherCacheError: The run cannot continue, such as on a full disk. Finished units stay.
    """
    config = with_absolute_paths(config)
    with _engine(config) as (engine, dataset, recipe):
        worker = engine.ask(_describe)
        asked = archive_spec(config, dataset.info, recipe, worker)
        shelves = list(shelves_of(config.catalog, asked.fingerprint, config.catalog_key))
        asked = as_shelved(config, asked, shelves)
        prepared = prepare(config, asked, is_labelled=dataset.index.is_labelled)
        taking = units_to_take(shelves, prepared.missing)
        found = None
        rest = prepared.without([unit for _, units in taking for unit in units])
        if rest.missing:
            found = measured_estimate(engine, rest, PlanConfig.epochs)
            check_gpu_hours(found, config.max_gpu_hours)
        prepared = begin(config, asked, prepared)
        taken = {shelf.store.url: take(shelf, prepared.writer, units, track) for shelf, units in taking}
        if taken:
            prepared = prepare(config, asked, is_labelled=dataset.index.is_labelled)
        if not prepared.missing and not prepared.calibration:
            report = _close(prepared, None, 0.0, {}, None)
        else:
            report = _run(config, engine, prepared, worker, found, dataset.info.classes, track)
        if not report.quarantined and not are_figures_current(prepared.writer.store):
            engine.ask(_put_figures)
        return dataclasses.replace(report, taken=taken)


def plan(config: PlanConfig) -> Plan:
    """Return the work and cost of `extract`. Nothing is written.

    Raises:
        InputError: See `extract`.
    """
    config = with_absolute_paths(config)
    with _engine(config) as (engine, dataset, recipe):
        asked = archive_spec(config, dataset.info, recipe, engine.ask(_describe))
        shelves = list(shelves_of(config.catalog, asked.fingerprint, config.catalog_key))
        prepared = prepare(config, as_shelved(config, asked, shelves), is_labelled=dataset.index.is_labelled)
        taking = units_to_take(shelves, prepared.missing)
        taken = {shelf.store.url: taken_of(shelf, units) for shelf, units in taking}
        prepared = prepared.without([unit for _, units in taking for unit in units])
        if not prepared.missing:
            return Plan(None, taken)
        found = measured_estimate(engine, prepared, config.epochs, config.price_per_gpu_hour)
    check_gpu_hours(found, config.max_gpu_hours)
    return Plan(found, taken)


def make_worker(order: WorkOrder) -> Worker:
    """Make a worker in the process that it works in: this loads the teacher, and with it torch."""
    from pipelines.extraction.worker import LabelWorker

    return LabelWorker(order)


def _describe(worker: Worker, _: Advance) -> Description:
    return worker.describe()


def _put_figures(worker: Worker, advance: Advance) -> None:
    worker.put_figures(advance)


@contextlib.contextmanager
def _engine(config: ExtractConfig) -> Iterator[tuple[Engine, PackedDataset, Recipe]]:
    """Check everything that needs no teacher, then lend an engine whose workers load one."""
    dataset = PackedDataset(config.data)
    if dataset.info.classes:
        check_topk(config.topk, len(dataset.info.classes))
    recipe = recipes.load(config.recipe, config.img_size)
    new_worker = functools.partial(make_worker, WorkOrder(config, recipe))
    engine: Engine = pkgutil.resolve_name(ENGINES[config.engine]).of(new_worker, config)
    try:
        yield engine, dataset, recipe
    finally:
        engine.close()


def _run(
    config: ExtractConfig,
    engine: Engine,
    prepared: Prepared,
    worker: Description,
    found: Estimate | None,
    classes: Sequence[str],
    track: Track,
) -> ExtractReport:
    """Run the missing units, and record the run beside the archive."""
    run = Store(config.run_dir or _new_run(config.out, _utc_now()))
    record = RunRecord(run, _utc_now, config.max_gpu_hours)
    fingerprint = prepared.writer.spec.fingerprint
    record.tell(
        "run_started",
        fingerprint=fingerprint,
        engine=config.engine,
        device=worker.device,
        workers=engine.num_workers,
        units=len(prepared.missing),
        units_done=prepared.missing.num_asked - len(prepared.missing),
        views=found.views if found else 0,
    )
    about: dict[str, Any] = {
        "fingerprint": fingerprint,
        "device": worker.device,
        "estimate": found and dataclasses.asdict(found),
    }
    given_up: dict[str, str] = {}
    state, begun_s = "failed", time.monotonic()
    try:
        calibration = calibrate(config, engine, prepared, record, track)
        given_up |= calibration.given_up
        agreement = about["agreement"] = calibration.agreement and dataclasses.asdict(calibration.agreement)
        if prepared.calibration:
            record.tell("calibration_failed" if given_up else "calibrated", **given_up, agreement=agreement)
        check_agreement(config, calibration.agreement, worker, classes)
        start_s = time.monotonic()
        queue = UnitQueue(prepared.missing, retries=config.retries, max_quarantined=config.max_quarantined)
        if not record.is_over_limit:
            _do_units(engine, queue, record, found.views if found else 0, track)
        _check_limit(record, config.max_gpu_hours)
        given_up |= {unit.name: reason for unit, reason in queue.quarantined.items()}
        _check_all_done(prepared, record, given_up)
        report = _close(prepared, record, time.monotonic() - start_s, given_up, calibration.agreement)
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


def _do_units(engine: Engine, queue: UnitQueue, record: RunRecord, num_views: int, track: Track) -> None:
    with track("extract", num_views, "views") as advance:
        for event in engine.run(queue, lambda views: advance(views, record.note(len(queue.quarantined)))):
            record.add(event)
            record.check_limit(queue, engine.num_workers)


def _check_limit(record: RunRecord, max_gpu_hours: float | None) -> None:
    if record.is_over_limit:
        raise TeacherCacheError(
            f"--max-gpu-hours {max_gpu_hours:g} would be passed: {record.gpu_s / 3600:.3g} hours are used up",
            "The run stopped; what is finished stays.",
            "run the same command again for as many hours more, or with a higher limit",
        )


def _check_all_done(prepared: Prepared, record: RunRecord, given_up: Mapping[str, str]) -> None:
    if not given_up and record.units != len(prepared.missing):
        raise TeacherCacheError(
            f"{record.units:,} of {len(prepared.missing):,} units were done, and none was given up",
            "The archive would have holes, so it is not finished.",
            "run the same command again, and report this",
        )


def _close(
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


def _new_run(out: str, now: datetime.datetime) -> str:
    """Return a new folder beside an archive. Raises InputError if the archive is a whole bucket."""
    if "://" not in out:
        out = str(Path(out).resolve())
    elif "/" not in out.partition("://")[2].strip("/"):
        raise InputError(
            f"--out {out} is a whole bucket",
            "There is no place beside it for the run's events.",
            "choose a folder in it, or give --run-dir",
        )
    return f"{out.rstrip('/')}.runs/{now:%Y%m%dT%H%M%S}-{secrets.token_hex(2)}"


def _utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
