"""Command `python -m pipelines.demo`, which `make demo` runs."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipelines.demo.report import HEADERS, table, write_report
from pipelines.demo.run import COMPARED_STEPS, DemoSize, run_demo
from teacher_cache.program.commandline import Command, run_single
from teacher_cache.program.progress import console


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """Distil a small DeiT on scikit-learn's digits, with and without stored labels."""

    out: str = "demo"
    """Folder for everything the demo makes; an earlier demo in it is deleted."""
    student_epochs: int = DemoSize.student_epochs
    """Passes of each student over the digits."""
    teacher_epochs: int = DemoSize.teacher_epochs
    """Passes of the teacher over the digits."""


def _demo(config: DemoConfig) -> int:
    """Run the demo, print its table, and return the exit code: 1 if live and cached training differ."""
    size = DemoSize(teacher_epochs=config.teacher_epochs, student_epochs=config.student_epochs)
    result = run_demo(Path(config.out), size, console)
    shown = Table(title=f"Digits, distilled (teacher: {result.teacher.accuracy['class']:.1%} on validation)")
    for header in HEADERS:
        shown.add_column(header, justify="left" if header == HEADERS[0] else "right")
    for row in table(result):
        shown.add_row(*row)
    Console(width=max(120, Console().width)).print(shown)
    apart = f"at most {result.loss_gap:.1e} apart, relative"
    print(f"live and cached losses of the first {COMPARED_STEPS} steps: {apart}")
    print(f"page: {write_report(Path(config.out), result)}")
    return 0 if result.loss_gap <= 1e-6 else 1


if __name__ == "__main__":
    sys.exit(run_single("python -m pipelines.demo", Command(DemoConfig, _demo), sys.argv[1:]))
