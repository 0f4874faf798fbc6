"""Seconds of tests by folder, compared with the budget in CONTRIBUTING.md."""

from __future__ import annotations

import collections
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"


def folder_of(nodeid: str) -> str:
    """Return the folder that a test's seconds count to: pipelines by room, else the one below tests."""
    parts = nodeid.partition("::")[0].split("/")[1:-1]
    return "/".join(parts[: 2 if parts[:1] == ["pipelines"] else 1]) or "."


def budgets(text: str) -> dict[str, int]:
    """Return the seconds of each folder, from the table under "Budget" in CONTRIBUTING.md."""
    table = text.partition("### Budget")[2].partition("\n#")[0]
    return {
        name: int(seconds) for name, seconds in re.findall(r"^\| `(\S+)` \| (\d+) \|", table, re.MULTILINE)
    }


def over_budget(seconds: Mapping[str, float], allowed: Mapping[str, int]) -> list[str]:
    """Return a line for each folder that took longer than allowed, or has no budget."""
    return [
        f"tests/{folder}: {taken:.0f} s of {allowed.get(folder, 0)} s"
        for folder, taken in sorted(seconds.items())
        if taken > allowed.get(folder, 0)
    ]


class BudgetReport:
    """Plugin of pytest that prints, after a run, the folders that were over their budget."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = collections.Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[folder_of(report.nodeid)] += report.duration

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        total = sum(self.seconds.values())
        terminalreporter.write_line(f"{total:.0f} s of tests in {len(self.seconds)} folders")
        for line in over_budget(self.seconds, budgets(CONTRIBUTING.read_text())):
            terminalreporter.write_line(f"over its budget (CONTRIBUTING.md), {line}", yellow=True)
