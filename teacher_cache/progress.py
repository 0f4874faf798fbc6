"""Progress of anything long: a bar on a terminal, a plain line now and then elsewhere. Always on stderr."""

from __future__ import annotations

import contextlib
import datetime
import sys
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_PLAIN_EVERY_S = 10.0


class Track(Protocol):
    """Opens progress over `total` things named `unit`; what it yields is told how many more are done."""

    def __call__(
        self, what: str, total: int, unit: str
    ) -> contextlib.AbstractContextManager[Callable[[int], None]]:
        """Open it."""
        ...


def _ignore(_count: int) -> None:
    pass


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Show how many are done each second."""
        return Text(f"{task.speed or 0:,.1f} {task.fields['unit']}/s")


@contextlib.contextmanager
def silent(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """A `Track` that shows nothing."""
    del what, total, unit
    yield _ignore


@contextlib.contextmanager
def console(what: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """A `Track` for people: rate, share done and time left."""
    if sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=total, unit=unit)
            yield lambda count: bar.advance(task, count)
        return
    start_s = shown_s = time.monotonic()
    done = 0

    def advance(count: int) -> None:
        nonlocal done, shown_s
        done += count
        now_s = time.monotonic()
        if now_s - shown_s >= _PLAIN_EVERY_S or done == total:
            shown_s = now_s
            rate = done / max(now_s - start_s, 1e-9)
            left = datetime.timedelta(seconds=round((total - done) / rate))
            print(
                f"{what} {done:,}/{total:,} {unit}, {rate:,.1f}/s, {left} left", file=sys.stderr, flush=True
            )

    yield advance
