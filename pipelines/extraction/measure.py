"""Measure what a run costs on the real images and device, before it begins."""

from __future__ import annotations

import functools

from pipelines.extraction.engines.engine import Advance, Engine, Worker, first_line
from pipelines.extraction.estimate import (
    LEAST_TRIAL_VIEWS,
    Estimate,
    estimate,
    measured_views,
    num_missing_views,
)
from pipelines.extraction.order import Rate, Trial
from pipelines.extraction.prepare import Prepared
from teacher_cache.archive.layout import Layout, Unit
from teacher_cache.errors import DatasetError, ImageError, TeacherCacheError


def _measure(layout: Layout, unit: Unit, num_views: int, worker: Worker, _: Advance) -> Rate:
    return worker.measure(layout, unit, num_views)


def _trial(engine: Engine, num_views: int) -> Trial | None:
    """Return the result of a trial; None where an image of it cannot be used, which the run will name."""
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
    last_error: Exception | None = None
    for unit in missing:
        try:
            rate = engine.ask(functools.partial(_measure, spec.layout, unit, some))
            break
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
    else:
        assert last_error is not None
        raise last_error
    return estimate(
        spec,
        missing,
        rate,
        calibration=calibration,
        trial=_trial(engine, trial_views) if calibration else None,
        num_workers=engine.num_workers,
        epochs=epochs,
        price_per_gpu_hour=price,
    )
