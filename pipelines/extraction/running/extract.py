"""Extraction job: find the missing units, run them on an engine, and close the archive.

The job holds neither images nor the teacher: the workers do. If these are Ray actors, this process imports no
torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pkgutil
from collections.abc import Iterator

from pipelines.extraction.engines.engine import Advance, Engine, Worker
from pipelines.extraction.flags import ENGINES, ExtractConfig, PlanConfig
from pipelines.extraction.messages import Description, WorkOrder
from pipelines.extraction.planning.estimate import ExtractReport, Plan, check_gpu_hours, measured_estimate
from pipelines.extraction.planning.prepare import archive_spec, begin, prepare
from pipelines.extraction.planning.take import as_shelved, shelves_of, take, taken_of, units_to_take
from pipelines.extraction.running.fill import fill, filling_flags
from pipelines.extraction.running.units import close, run
from teacher_cache.archive.format.companions import are_figures_current
from teacher_cache.archive.format.filling import JOB_FILE, Filling
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.labels.arrays import check_topk
from teacher_cache.program.flags import with_absolute_paths
from teacher_cache.program.progress import Track
from teacher_cache.views import recipe as recipes
from teacher_cache.views.recipe import Recipe


def extract(config: ExtractConfig, track: Track) -> ExtractReport:
    """Compute the requested labels that are missing, and finish the archive.

    If units were given up, the archive is not finished: a finished archive never has holes.

    Raises:
        InputError: The request is wrong; see also `prepare`. Nothing in the archive is lost.
        TeacherCacheError: The run cannot continue, such as on a full disk. Finished units stay.
    """
    config = with_absolute_paths(config)
    at_work = filling_flags(config) if config.followed else config
    with _engine(at_work) as (engine, dataset, recipe):
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
            report = close(prepared, None, 0.0, {}, None)
            if config.followed:
                Filling(prepared.writer.store).store.delete(JOB_FILE)
        elif config.followed:
            report = fill(at_work, engine, prepared, worker, found, dataset.info.classes, track)
        else:
            report = run(config, engine, prepared, worker, found, dataset.info.classes, track)
        if not report.quarantined and not are_figures_current(prepared.writer.store):
            engine.ask(functools.partial(_put_figures, config.out))
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
    from pipelines.extraction.worker.worker import LabelWorker

    return LabelWorker(order)


def _describe(worker: Worker, _: Advance) -> Description:
    return worker.describe()


def _put_figures(out: str, worker: Worker, advance: Advance) -> None:
    worker.put_figures(out, advance)


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
