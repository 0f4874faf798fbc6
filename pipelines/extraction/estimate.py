"""Cost of a run, before it begins: a plan in integers, and a short measurement on the real device."""

from __future__ import annotations

import dataclasses
import math

from pipelines.extraction.missing import MissingUnits
from pipelines.extraction.order import Rate
from teacher_cache.archive.spec import ArchiveSpec
from teacher_cache.errors import InputError

OBJECTS_PER_UNIT = 4
"""Objects of a unit: three arrays and a receipt."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Work and cost of a run.

    Attributes:
        units, views: Units to compute, and their views of single images.
        units_done: Requested units that exist already.
        objects: Files or objects to write.
        label_bytes: Bytes of the labels to write.
        views_per_s: Measured views a second of one teacher, rendering included.
        render_share: Share of a teacher's time spent waiting for views.
        gpu_hours: Hours of all teachers together, on any device.
        hours: Hours from beginning to end, with `num_workers` teachers.
        num_workers: Teachers at a time.
        break_even_runs: Student runs until stored labels took less teacher time than a live teacher would.
        epochs: Epochs of such a run.
        cost: Price of the gpu_hours, if a price per hour is given.
    """

    units: int
    views: int
    units_done: int
    objects: int
    label_bytes: int
    views_per_s: float
    render_share: float
    gpu_hours: float
    hours: float
    num_workers: int
    break_even_runs: float
    epochs: int
    cost: float | None


def num_missing_views(spec: ArchiveSpec, missing: MissingUnits) -> int:
    """Return the number of views of single images in the missing units."""
    return sum(spec.rows(unit.shard) * len(unit.views) for unit in missing)


def estimate(
    spec: ArchiveSpec,
    missing: MissingUnits,
    rate: Rate,
    *,
    num_workers: int,
    epochs: int,
    price_per_gpu_hour: float | None = None,
) -> Estimate:
    """Return the cost of an archive's missing units at a measured rate."""
    views = num_missing_views(spec, missing)
    gpu_s = views / rate.views_per_s
    samples = sum(count for _, count in spec.dataset["shards"])
    live_s_per_run = samples * epochs * rate.teacher_s_per_view
    return Estimate(
        units=len(missing),
        views=views,
        units_done=missing.num_asked - len(missing),
        objects=len(missing) * OBJECTS_PER_UNIT,
        label_bytes=math.ceil(views * rate.bytes_per_label),
        views_per_s=round(rate.views_per_s, 3),
        render_share=round(rate.render_s / max(rate.seconds, 1e-9), 4),
        gpu_hours=gpu_s / 3600,
        hours=gpu_s / 3600 / max(1, min(num_workers, len(missing))),
        num_workers=num_workers,
        break_even_runs=gpu_s / live_s_per_run if live_s_per_run else 0.0,
        epochs=epochs,
        cost=None if price_per_gpu_hour is None else gpu_s / 3600 * price_per_gpu_hour,
    )


def check_gpu_hours(found: Estimate, max_gpu_hours: float | None) -> None:
    """Refuse a run that would take longer than allowed. Raises InputError."""
    if max_gpu_hours is not None and found.gpu_hours > max_gpu_hours:
        raise InputError(
            f"--max-gpu-hours {max_gpu_hours:g}, but the {found.views:,} views asked for take about "
            f"{found.gpu_hours:,.3g} hours at {found.views_per_s:,.1f} views/s",
            "Nothing was computed.",
            "ask for fewer --views, or allow more",
        )


def measured_views(num_views: int) -> int:
    """Return the number of views to measure, from those of a run: a thousandth, at most 2,048."""
    return max(1, min(num_views // 1000, 2048))
