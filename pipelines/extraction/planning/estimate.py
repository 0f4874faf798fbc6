"""Cost of a run, before it begins: counts of its work, and a short measurement on the real device."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

from pipelines.extraction.engines.engine import Advance, Engine, Worker, first_line
from pipelines.extraction.messages import Rate, Trial
from pipelines.extraction.planning.prepare import Prepared
from pipelines.extraction.planning.take import Taken
from pipelines.extraction.queue import MissingUnits
from teacher_cache.archive.format.layout import Layout, Unit
from teacher_cache.archive.format.spec import ArchiveSpec
from teacher_cache.errors import DatasetError, ImageError, InputError, TeacherCacheError
from teacher_cache.labels.affinity_rule import CalibrationPart
from teacher_cache.labels.agreement import Agreement

LEAST_TRIAL_VIEWS = 64
"""Calibration views that are tried at least: enough to time a batch."""
OBJECTS_PER_UNIT = 4
"""Objects of a unit: three arrays and a receipt."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Work and cost of a run.

    Attributes:
        units, views: Units to compute, and the number of their views, counted per image.
        units_done: Requested units that exist already.
        objects: Files or objects to write.
        calibration_views: Views to calibrate on before the first unit, not stored as labels.
        views_per_s: Measured views a second of one teacher, rendering included.
        render_share: Share of a teacher's time spent waiting for views.
        gpu_hours: Hours of all teachers together, on any device.
        hours: Hours from beginning to end, with `num_workers` teachers.
        num_workers: Teachers at a time.
        break_even_runs: Number of student runs after which stored labels cost less than a live teacher.
        cost: Price of the gpu_hours, if a price per hour is given.
        agreement: Agreement of the teacher with true labels on a sample; None if no image has one.
        outputs: What the teacher's outputs were found to be, as text.
        outputs_kind: The same without numbers that differ between devices.
    """

    units: int
    views: int
    units_done: int
    objects: int
    label_bytes: int
    calibration_views: int
    views_per_s: float
    render_share: float
    gpu_hours: float
    hours: float
    num_workers: int
    break_even_runs: float
    epochs: int
    cost: float | None
    agreement: Agreement | None
    outputs: str = ""
    outputs_kind: str = ""


def num_missing_views(spec: ArchiveSpec, missing: MissingUnits) -> int:
    """Return the number of views in the missing units, counted per image."""
    return sum(spec.rows(unit.shard) * len(unit.views) for unit in missing)


def estimate(
    spec: ArchiveSpec,
    missing: MissingUnits,
    rate: Rate,
    *,
    calibration: Sequence[CalibrationPart] = (),
    trial: Trial | None = None,
    num_workers: int,
    epochs: int,
    price_per_gpu_hour: float | None = None,
) -> Estimate:
    """Return the cost of an archive's missing units and calibration at measured rates."""
    views = num_missing_views(spec, missing)
    calibration_views = sum(part.stop - part.start for part in calibration)
    calibration_s = calibration_views / (trial.rate if trial else rate).views_per_s
    units_s = views / rate.views_per_s
    gpu_s = units_s + calibration_s
    wall_s = units_s / max(1, min(num_workers, len(missing)))
    wall_s += calibration_s / max(1, min(num_workers, len(calibration)))
    samples = sum(count for _, count in spec.dataset["shards"])
    live_s_per_run = samples * epochs * rate.teacher_s_per_view
    return Estimate(
        units=len(missing),
        views=views,
        units_done=missing.num_asked - len(missing),
        objects=len(missing) * OBJECTS_PER_UNIT,
        label_bytes=math.ceil(views * rate.bytes_per_label),
        calibration_views=calibration_views,
        views_per_s=round(rate.views_per_s, 3),
        render_share=round(rate.render_s / max(rate.seconds, 1e-9), 4),
        gpu_hours=gpu_s / 3600,
        hours=wall_s / 3600,
        num_workers=num_workers,
        break_even_runs=gpu_s / live_s_per_run if live_s_per_run else 0.0,
        epochs=epochs,
        cost=None if price_per_gpu_hour is None else gpu_s / 3600 * price_per_gpu_hour,
        agreement=trial.agreement if trial else None,
        outputs=rate.outputs,
        outputs_kind=rate.outputs_kind,
    )


def check_gpu_hours(found: Estimate, max_gpu_hours: float | None) -> None:
    """Refuse a run that would take longer than allowed. Raises InputError."""
    if max_gpu_hours is not None and found.gpu_hours > max_gpu_hours:
        raise InputError(
            f"--max-gpu-hours {max_gpu_hours:g}, but the {found.views:,} views asked for, and "
            f"{found.calibration_views:,} to calibrate on, take about {found.gpu_hours:,.3g} hours "
            f"at {found.views_per_s:,.1f} views/s",
            "Nothing was computed.",
            "request fewer --views, skip the class affinity with --affinity none, or raise the limit",
        )


def measured_views(num_views: int) -> int:
    """Return the number of views to measure, from those of a run: a thousandth, at most 2,048."""
    return max(1, min(num_views // 1000, 2048))


def _measure(layout: Layout, unit: Unit, num_views: int, worker: Worker, _: Advance) -> Rate:
    return worker.measure(layout, unit, num_views)


def outputs_kind(engine: Engine, layout: Layout, views: range) -> str:
    """Return what the teacher's outputs are found to be on the first views asked for.

    Raises:
        TeacherCacheError: The teacher does not run, or no image can be used.
    """
    return _measured_rate(engine, layout, MissingUnits(layout, views, ()), 1).outputs_kind


def _trial(engine: Engine, num_views: int) -> Trial | None:
    """Time some calibration views; return None if an image is unusable, which the run itself reports."""
    try:
        return engine.ask(functools.partial(_try_calibration, num_views))
    except (ImageError, DatasetError):
        return None


def _try_calibration(num_views: int, worker: Worker, _: Advance) -> Trial:
    return worker.try_calibration(num_views)


def measured_estimate(
    engine: Engine, prepared: Prepared, epochs: int, price: float | None = None
) -> Estimate:
    """Return the cost of the missing units and calibration, from a short measurement on a worker.

    Raises:
        TeacherCacheError: The teacher does not run, or no image can be used.
    """
    spec, missing, calibration = prepared.writer.spec, prepared.missing, prepared.missing_calibration
    num_calibration_views = sum(part.stop - part.start for part in calibration)
    trial_views = min(num_calibration_views, max(measured_views(num_calibration_views), LEAST_TRIAL_VIEWS))
    some = measured_views(num_missing_views(spec, missing))
    return estimate(
        spec,
        missing,
        _measured_rate(engine, spec.layout, missing, some),
        calibration=calibration,
        trial=_trial(engine, trial_views) if calibration else None,
        num_workers=engine.num_workers,
        epochs=epochs,
        price_per_gpu_hour=price,
    )


def _measured_rate(engine: Engine, layout: Layout, units: MissingUnits, num_views: int) -> Rate:
    """Return the rate of the first unit without a bad image. Raises as `measured_estimate`."""
    last_error: Exception | None = None
    for unit in units:
        try:
            rate: Rate = engine.ask(functools.partial(_measure, layout, unit, num_views))
            return rate
        except (ImageError, DatasetError) as error:  # the run itself will meet and name a bad image
            last_error = error
        except TeacherCacheError:
            raise
        except Exception as error:
            is_memory = "memory" in str(error).lower()
            raise TeacherCacheError(
                f"the teacher does not run: {first_line(error)}",
                "Nothing was computed.",
                "choose a smaller --batch-size, or another --device"
                if is_memory
                else "check that the model takes images of --img-size pixels, and its --model-kwargs",
            ) from error
    assert last_error is not None
    raise last_error


@dataclasses.dataclass(frozen=True)
class ExtractReport:
    """Report of a run, and the content of the archive after it.

    Attributes:
        units, views: Units that this run computed, and the number of their views, counted per image.
        seconds: Seconds spent on these units.
        labels: Labels in the archive.
        quarantined: Reason of each unit that was given up; any such unit leaves the archive unfinished.
        run: URL of the run's record; None if there was nothing to do.
        calibration_views: Views that this run calibrated on.
        agreement: Agreement of the teacher with the true labels; None where it was not measured.
        taken: Units and bytes that were taken from archives in catalogs, by their URLs.
    """

    units: int
    views: int
    seconds: float
    labels: int
    label_bytes: int
    fingerprint: str
    quarantined: dict[str, str]
    run: str | None
    calibration_views: int
    agreement: Agreement | None
    taken: Mapping[str, Taken] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Work that an extract would do.

    Attributes:
        estimate: Cost of the units to compute; None if there are none.
    """

    estimate: Estimate | None
    taken: Mapping[str, Taken]
