"""Tables of the experiment as Markdown, and figures as SVG."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.figure

HEADS = ("class", "distillation", "both_softmax")
PAPER = {
    "no distillation": (72.2, None, None),
    "soft, usual": (72.2, None, None),
    "hard, usual": (74.3, None, None),
    "hard, token": (73.9, 74.6, 74.5),
}
"""Accuracies of DeiT-Ti in the paper's Table 3: class head, distillation head, both."""


def write_page(out: Path, result: dict[str, Any]) -> str:
    """Write OUT/table3.md and its figures, and return the page's text."""
    shares = {arm["name"]: arm["accuracy"] for arm in result["students"]}
    agreement = {arm["name"]: arm["agreement"] for arm in result["students"]}
    teachers = result["teachers"]
    live = result["live_and_cached"]
    lines = [
        "| student | class head | distillation head | both | agreement | the paper's, DeiT-Ti |",
        "|---|---|---|---|---|---|",
        *(_row(name, runs, agreement[name]) for name, runs in shares.items()),
        "",
        f"Teachers: convnet {teachers['convnet']:.1%}, transformer {teachers['transformer']:.1%}.",
        f"Live and cached: {live['equal']:,} of {live['updates']:,} losses equal, the others at most "
        f"{live['largest_relative_gap']:.1e} apart.",
        "",
    ]
    text = "\n".join(lines)
    (out / "table3.md").write_text(text)
    _figure(out / "table3.svg", shares)
    return text


def _row(name: str, runs: list[dict[str, float]], agreement: list[float]) -> str:
    heads = [_spread([run[head] for run in runs]) if head in runs[0] else "" for head in HEADS]
    paper = " / ".join(str(share) for share in PAPER.get(name, ()) if share is not None)
    agreed = _spread(agreement) if agreement else ""
    return f"| {name} | {' | '.join(heads)} | {agreed} | {paper} |"


def _spread(shares: list[float]) -> str:
    """Return mean and standard deviation in per cent."""
    mean = f"{100 * statistics.mean(shares):.1f}"
    return mean if len(shares) == 1 else f"{mean} ± {100 * statistics.stdev(shares):.1f}"


def _figure(file: Path, shares: dict[str, list[dict[str, float]]]) -> None:
    """Draw every run as a dot, with the arms one below the other."""
    figure = matplotlib.figure.Figure(figsize=(8, 0.34 * len(shares) + 1), layout="constrained")
    axes = figure.subplots()
    names = list(shares)
    for place, name in enumerate(names):
        best = [100 * run.get("both_softmax", run["class"]) for run in shares[name]]
        axes.plot(best, [place] * len(best), "o", alpha=0.6, color="#4c78a8")
        axes.plot([statistics.mean(best)], [place], "|", markersize=16, color="#222")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(
        "accuracy in per cent, both heads together or the only one; a dot a seed, a bar their mean"
    )
    axes.grid(alpha=0.3, axis="x")
    with mpl.rc_context({"svg.hashsalt": "teacher-cache"}):
        figure.savefig(file, format="svg", metadata={"Date": None})
