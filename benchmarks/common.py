"""Helpers of all benchmarks: medians of interleaved repeats, and pictures."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.machine import environment


def interleaved(runs: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Call each run in turn, `repeats` times over, so that a slow phase of the machine affects all."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            times[name].append(run())
    return times


def ratio(times: Mapping[str, list[float]], name: str, base: str) -> tuple[float, float, float]:
    """Return the minimum, median and maximum of the ratios of two runs, repeat by repeat."""
    ratios = [ours / theirs for ours, theirs in zip(times[name], times[base], strict=True)]
    return min(ratios), statistics.median(ratios), max(ratios)


def print_steps(
    title: str, times: Mapping[str, list[float]], base: str
) -> dict[str, tuple[float, float, float]]:
    """Print the seconds a step of each run, and their ratios to one of the runs, which are returned.

    Args:
        title: Title of the table.
        times: Seconds a step, repeat by repeat, by run.
        base: Name of the run that ratios are to.
    """
    table = Table(title=f"{title}; seconds a step")
    for header in ("mode", "min", "median", "max", f"ratio to {base}: min", "median", "max"):
        table.add_column(header, justify="left" if header == "mode" else "right")
    ratios = {name: ratio(times, name, base) for name in times}
    for name, values in times.items():
        spread = (min(values), statistics.median(values), max(values))
        table.add_row(name, *(f"{value:.3f}" for value in (*spread, *ratios[name])))
    Console(width=110).print(table)
    return ratios


def write_json(file: str | None, result: Mapping[str, Any]) -> None:
    """Write a result to the file of --json, if one is given."""
    if file is not None:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).write_text(json.dumps(result, indent=1) + "\n")


def report_figures(
    title: str, figures: Mapping[str, Any], config: Any, packages: tuple[str, ...], **changes: Any
) -> None:
    """Print figures as a table, and write them with the settings and the machine to the file of --json.

    Args:
        title: Title of the table.
        figures: Figures by name.
        config: Flags of the benchmark, with a flag --json.
        packages: Packages whose versions belong to the result.
        **changes: Settings that are written otherwise than they were given.
    """
    table = Table("what", "figure", title=title)
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:,}" if isinstance(value, int) else str(value))
    Console().print(table)
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name != "json"}
    head = {"environment": environment(packages), "config": settings | changes}
    write_json(config.json, {**head, **figures})


def write_photographs(folder: Path, count: int) -> None:
    """Write JPEGs about as large and as slow to decode as ImageNet's: 500 x 375 px, near 100 KB."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), np.int16)
        noisy = np.clip(smooth + rng.normal(0, 12, smooth.shape), 0, 255).astype(np.uint8)
        file = folder / f"class{number % 10}" / f"{number:05d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy).save(file, quality=90)
