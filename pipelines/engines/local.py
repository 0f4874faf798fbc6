"""One process, one device, unit after unit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from teacher_cache.archive.layout import Unit


def run(units: Sequence[Unit], work: Callable[[Unit], object]) -> None:
    """Do `work` on every unit, in order; the first error ends the run, and finished units stay."""
    for unit in units:
        work(unit)
