"""Extraction job: find the missing units, run them on an engine, and close the archive.

The images and the teacher are loaded by the workers, not here. If the workers are Ray actors, this process
does not import torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pkgutil
from collections.abc import Iterator

from pipelines.extraction.engines.engine import Engine, Worker
from pipelines.extraction.flags import ExtractConfig, PlanConfig
from pipelines.extraction.planning.estimate import (
    ExtractReport,
    Plan,
    check_gpu_hours,
    measured_estimate,
    outputs_kind,
)
from pipelines.extraction.planning.prepare import Extraction, archive_spec, begin, prepare
from pipelines.extraction.planning.take import (
    Shelf,
    as_shelved,
    of_one_basis,
    shelves_of,
    take,
    taken_of,
    units_to_take,
)
from pipelines.extraction.request import WorkOrder, request_of
from pipelines.extraction.running.fill import fill
from pipelines.extraction.running.units import close, run
from teacher_cache.archive.format.companions import are_figures_current
from teacher_cache.archive.format.spec import OUTPUTS, ArchiveSpec
from teacher_cache.following.job import JOB_FILE, Filling
from teacher_cache.program.progress import Track


def extract(config: ExtractConfig, track: Track) -> ExtractReport:
    """Compute the requested labels that are missing, and finish the archive.

    If units were given up, the archive is not finished: a finished archive never has holes.

    Raises:
        InputError: The request is wrong; see also `prepare`. Nothing in the archive is lost.
        TeacherCacheError: The run cannot continue, such as on a full disk. Finished units stay.
    """
    with begun(config) as extraction:
        request, engine = extraction.request, extraction.engine
        asked, shelves = _spec_and_shelves(extraction)
        prepared = prepare(request, asked)
        taking = units_to_take(of_one_basis(shelves, prepared.writer), prepared.missing)
        found = kind = None
        rest = prepared.without([unit for _, units in taking for unit in units])
        if rest.missing:
            found = measured_estimate(engine, rest, PlanConfig.epochs)
            check_gpu_hours(found, request.max_gpu_hours)
            kind = found.outputs_kind
        elif prepared.writer.is_new:
            kind = outputs_kind(engine, asked.layout, request.views)
        if kind is not None:
            asked = dataclasses.replace(asked, made_with={**asked.made_with, OUTPUTS: kind})
        prepared = begin(request, asked, prepared)
        taken = {shelf.store.url: take(shelf, prepared.writer, units, track) for shelf, units in taking}
        if taken:
            prepared = prepare(request, asked)
        if prepared.missing or prepared.calibration:
            report = (fill if request.is_followed else run)(extraction, prepared, found, track)
        else:
            report = close(prepared, None, 0.0, {}, None)
            if request.is_followed:
                Filling(request.archive).store.delete(JOB_FILE)
        if not report.quarantined and not are_figures_current(request.archive):
            archive = request.archive
            engine.ask(lambda worker, advance: worker.put_figures(archive, advance))
        return dataclasses.replace(report, taken=taken)


def plan(config: PlanConfig) -> Plan:
    """Estimate the work and cost of `extract` without writing anything. Raises the errors of `extract`."""
    with begun(config) as extraction:
        asked, shelves = _spec_and_shelves(extraction)
        prepared = prepare(extraction.request, asked)
        taking = units_to_take(of_one_basis(shelves, prepared.writer), prepared.missing)
        taken = {shelf.store.url: taken_of(shelf, units) for shelf, units in taking}
        prepared = prepared.without([unit for _, units in taking for unit in units])
        if not prepared.missing:
            return Plan(None, taken)
        found = measured_estimate(extraction.engine, prepared, config.epochs, config.price_per_gpu_hour)
    check_gpu_hours(found, config.max_gpu_hours)
    return Plan(found, taken)


@contextlib.contextmanager
def begun(config: ExtractConfig) -> Iterator[Extraction]:
    """Check the request, then yield an extraction whose workers are loaded; close its engine at the end."""
    request = request_of(config)
    new_worker = functools.partial(make_worker, request.order)
    engine: Engine = pkgutil.resolve_name(request.engine.entry_point)(new_worker, request.engine)
    try:
        yield Extraction(request, engine, engine.ask(lambda worker, _: worker.describe()))
    finally:
        engine.close()


def _spec_and_shelves(extraction: Extraction) -> tuple[ArchiveSpec, list[Shelf]]:
    """Return the archive's spec, and the catalogued archives whose units can be copied."""
    asked = archive_spec(extraction.request, extraction.worker)
    shelves = list(shelves_of(extraction.request, asked.fingerprint))
    return as_shelved(extraction.request, asked, shelves), shelves


def make_worker(order: WorkOrder) -> Worker:
    """Make a worker, in the worker's own process, because this loads torch and the teacher."""
    from pipelines.extraction.worker.worker import LabelWorker

    return LabelWorker(order)
