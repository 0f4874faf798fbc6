"""Page about one or several runs: flags that differ, results, and curves."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from student.metrics import read_metrics
from teacher_cache.errors import InputError
from teacher_cache.program.chart import Panel, Series, chart_png
from teacher_cache.storage.store import Store

_CURVES = {
    "loss": "loss",
    "loss_label": "label loss",
    "loss_distillation": "distillation loss",
    "agreement": "agreement with the teacher",
    "accuracy": "accuracy on validation images",
    "lr": "learning rate",
}
_POINTS = 400
"""Longer curves are averaged in groups of equal size, to between this many points and twice as many."""
_WIDTH_PX, _HEIGHT_PX = 960, 336


def write_report(runs: Sequence[str], out: str) -> Path:
    """Write a page that needs no other files, and return its path.

    Raises:
        InputError: A folder is not a run, one of its files is damaged, or jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise InputError(
            "student report",
            "jinja2 is not installed.",
            "pip install 'teacher-cache[report]'",
        ) from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    try:
        page = _page(runs, environment.get_template("report.html.jinja"))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, jinja2.TemplateError) as error:
        raise InputError(
            f"{' '.join(runs)}: {type(error).__name__}: {error}",
            "A file of a run is not as `student train` writes it, and no page was written.",
            "leave that run out, or copy it again",
        ) from error
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(page.encode("utf-8", "replace"))
    return path


def _page(runs: Sequence[str], template: Any) -> str:
    """Return the page; files of runs from elsewhere may hold any JSON."""
    names = _names(runs)
    metrics = {name: read_metrics(Store(run)) for name, run in zip(names, runs, strict=True)}
    configs = {name: _config(Store(run)) for name, run in zip(names, runs, strict=True)}
    page: str = template.render(
        names=names,
        results=_results(metrics),
        differences=_differences(configs),
        settings=configs[names[0]],
        curves=[(title, _curve(metrics, key)) for key, title in _CURVES.items() if _has(metrics, key)],
    )
    return page


def _names(runs: Sequence[str]) -> list[str]:
    """Return a name per run: the last part of its path, or the whole path if two runs share a last part."""
    ends = [run.rstrip("/").rpartition("/")[2] for run in runs]
    return ends if len(set(ends)) == len(ends) else list(runs)


def _config(store: Store) -> dict[str, Any]:
    try:
        return json.loads(store.get("config.json"))
    except FileNotFoundError as error:
        raise InputError(
            f"{store.url} has no config.json",
            "It is not the output of a run.",
            "give the --output of `student train`",
        ) from error


def _differences(configs: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[Any]]]:
    """Return the flags that differ between runs, with the value in each run."""
    flags = dict.fromkeys(flag for config in configs.values() for flag in config)
    rows = [(flag, [config.get(flag) for config in configs.values()]) for flag in flags]
    return [(flag, values) for flag, values in rows if any(value != values[0] for value in values)]


def _results(metrics: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[str, list[str]]]:
    """Return the results of each run, a row per figure; an unfinished run has its figures so far."""
    columns: list[dict[str, str]] = []
    for lines in metrics.values():
        column: dict[str, str] = {}
        steps = [line for line in lines if "loss" in line]
        if steps:
            column["updates"] = f"{steps[-1]['step'] + 1:,}"
            column["last loss"] = f"{steps[-1]['loss']:.4f}"
        if steps and "agreement" in steps[-1]:
            column["agreement with the teacher"] = f"{steps[-1]['agreement']:.1%}"
        scored = [line for line in lines if "accuracy" in line]
        for kind in ("accuracy", "ema_accuracy"):
            for head, share in (scored[-1].get(kind, {}) if scored else {}).items():
                column[f"{kind.replace('_', ' ')}, {head}"] = f"{share:.2%}"
        result = lines[-1].get("result") if lines else None
        column["state"] = "done" if result else "not done"
        if result:
            seconds = max(result["seconds"], 1e-9)
            column["images/s"] = f"{result['images'] / seconds:,.0f}"
            column["data wait"] = f"{result['data_wait_s'] / seconds:.1%}"
            column["seconds"] = f"{result['seconds']:,.1f}"
        columns.append(column)
    figures = dict.fromkeys(figure for column in columns for figure in column)
    return [(figure, [column.get(figure, "") for column in columns]) for figure in figures]


def _has(metrics: Mapping[str, Sequence[Mapping[str, Any]]], key: str) -> bool:
    return any(key in line for lines in metrics.values() for line in lines)


def _series(lines: Sequence[Mapping[str, Any]], key: str) -> tuple[list[float], list[float]]:
    """Return steps and values of a curve; for accuracies, those of `both_logits` or of the only head."""
    points = [
        (line["step"], [*line[key].values()][-1] if isinstance(line[key], Mapping) else line[key])
        for line in lines
        if key in line and "step" in line
    ]
    size = max(1, len(points) // _POINTS)
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    means = [[sum(values) / len(values) for values in zip(*group, strict=True)] for group in groups]
    return [step for step, _ in means], [value for _, value in means]


def _curve(metrics: Mapping[str, Sequence[Mapping[str, Any]]], key: str) -> str:
    """Return one picture with a curve per run, as a data URL of a PNG."""
    series = []
    for name, lines in metrics.items():
        steps, values = _series(lines, key)
        if steps:
            series.append(Series(name, steps, values, is_line=len(steps) > 1))
    png = chart_png([Panel(series, "update")], _WIDTH_PX, _HEIGHT_PX)
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
