"""Run `plan` and `extract`, and print what they did."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pipelines.extraction.flags import ExtractConfig, PlanConfig
from teacher_cache.program.commandline import show
from teacher_cache.program.say import say_on_stderr

if TYPE_CHECKING:
    from pipelines.extraction.planning.take import Taken


def extract(config: ExtractConfig) -> int:
    """Extract labels; the exit code is 1 if units were given up."""
    from pipelines.extraction.running import extract as job
    from teacher_cache.program.progress import console

    report = job.extract(config, console)
    lines = [f"every label asked for is there{'' if report.taken else ' already'}; nothing was computed"]
    if report.run is not None:
        rate = report.views / max(report.seconds, 1e-9)
        lines = [
            *([str(report.agreement)] if report.agreement else []),
            f"labelled {report.views:,} views in {report.seconds:,.1f} s, {rate:,.1f} views/s",
            f"events and report: {report.run}",
        ]
    if report.labels:
        lines.append(
            f"{config.out}: {report.labels:,} labels, {report.label_bytes / report.labels:.1f} bytes each, "
            f"fingerprint {report.fingerprint[:12]}"
        )
    show(config, report, [*_taken_lines(report.taken, config.catalog), *lines])
    if config.json or not report.quarantined:
        return 1 if report.quarantined else 0
    for name, reason in report.quarantined.items():
        say_on_stderr(f"unit {name} was given up: {reason}")
    say_on_stderr(
        f"{config.out} is not finished: mend what the lines above name, then run the same command again"
    )
    return 1


def plan(config: PlanConfig) -> int:
    """Print the work and cost of an extraction."""
    from pipelines.extraction.running import extract as job

    planned = job.plan(config)
    found, taken = planned.estimate, _taken_lines(planned.taken, config.catalog)
    if found is None:
        values = {"taken": planned.taken} if planned.taken else None
        nothing = "every other label" if planned.taken else "every label asked for"
        show(config, values, [*taken, f"{nothing} is there already; there is nothing to do"])
        return 0
    lines = [
        *taken,
        f"units     {found.units:,} to do, {found.units_done:,} done",
        f"views     {found.views:,}, and {found.calibration_views:,} to calibrate on",
        f"objects   {found.objects:,}, {found.label_bytes:,} bytes of labels",
        f"outputs   {found.outputs}",
        f"rate      {found.views_per_s:,.1f} views/s a teacher, {found.render_share:.0%} waiting for views",
        f"teacher   {found.gpu_hours:,.3g} hours in all, {found.hours:,.3g} with {found.num_workers} at once",
        *([f"cost      {found.cost:,.2f}"] if found.cost is not None else []),
        *([f"classes   on a sample, {found.agreement}"] if found.agreement else []),
        f"pays off  cheaper than a live teacher after {found.break_even_runs:,.3g} student runs "
        f"of {found.epochs:,} epochs",
    ]
    show(config, {**dataclasses.asdict(found), "taken": planned.taken}, lines)
    return 0


def _taken_lines(taken: Mapping[str, Taken], catalogs: Sequence[str]) -> list[str]:
    """Return what is taken from each archive of a catalog, as text."""
    if not taken and catalogs:
        return [f"no archive in {', '.join(catalogs)} has units of this request"]
    return [
        f"taken     {units:,} units, {num_bytes:,} bytes, from {url}"
        for url, (units, num_bytes) in taken.items()
    ]
