"""What a run costs before it is begun: a plan in integers, and a short measurement on the real device."""

from __future__ import annotations

import dataclasses
import math

from pipelines.extraction.missing import MissingUnits
from pipelines.extraction.order import Rate
from teacher_cache.archive.spec import ArchiveSpec
from teacher_cache.errors import InputError

OBJECTS_PER_UNIT = 4
"""Three arrays and a receipt."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a run would do and take.

    Attributes:
        units, views: To be computed; views of single images.
        units_done: Of those asked for, there already.
        objects: Files or objects that are written.
        label_bytes: Of the labels that are written.
        views_per_s: Of one teacher, rendering included, as measured.
        render_share: Of a teacher's time, waiting for views.
        gpu_hours: Of all teachers together, whatever they run on.
        hours: From beginning to end, with `num_workers` teachers.
        num_workers: Teachers at once.
        break_even_runs: Student runs until stored labels took less teacher time than a live teacher would.
        epochs: Of such a run.
        cost: Of the gpu_hours, where a price is given.
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
    """Return how many views of single images the missing units have."""
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
    """Return what the missing units of an archive would take at a measured rate."""
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
    """Refuse a run that would take longer than it may. Raises InputError."""
    if max_gpu_hours is not None and found.gpu_hours > max_gpu_hours:
        raise InputError(
            f"--max-gpu-hours {max_gpu_hours:g}, but the {found.views:,} views asked for take about "
            f"{found.gpu_hours:,.3g} hours at {found.views_per_s:,.1f} views/s",
            "Nothing was computed.",
            "ask for fewer --views, or allow more",
        )


def measured_views(num_views: int) -> int:
    """Return how many views to measure on, of a run of so many: a thousandth, at most 2,048."""
    return max(1, min(num_views // 1000, 2048))
