"""Show progress on stderr: a bar on a terminal, a plain line now and then elsewhere."""

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


class Advance(Protocol):
    """Function that reports how many more items are done, with an optional note beside the count."""

    def __call__(self, count: int, note: str = "") -> None:
        """Report `count` more items as done, with a note."""
        ...


class Track(Protocol):
    """Function that opens a progress display."""

    def __call__(self, what: str, total: int, unit: str) -> contextlib.AbstractContextManager[Advance]:
        """Open a display of progress over `total` items named `unit`."""
        ...


def ignore(count: int, note: str = "") -> None:
    """Do nothing; an `Advance` without a display."""
    del count, note


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Show the number of items done per second."""
        return Text(f"{task.speed or 0:,.1f} {task.fields['unit']}/s")


def counting(advance: Callable[[int], None]) -> Track:
    """Return a `Track` that shows nothing, and passes its counts on."""

    @contextlib.contextmanager
    def track(what: str, total: int, unit: str) -> Iterator[Advance]:
        del what, total, unit

        def show(count: int, note: str = "") -> None:
            del note
            advance(count)

        yield show

    return track


@contextlib.contextmanager
def silent(what: str, total: int, unit: str) -> Iterator[Advance]:
    """Open a `Track` that shows nothing."""
    del what, total, unit
    yield ignore


@contextlib.contextmanager
def console(what: str, total: int, unit: str) -> Iterator[Advance]:
    """Open a `Track` that shows rate, share done and time left."""
    if sys.stderr.isatty():
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(what, total=total, unit=unit, note="")

            def show(count: int, note: str = "") -> None:
                bar.update(task, advance=count, note=note)

            yield show
        return
    start_s = shown_s = time.monotonic()
    done = 0

    def advance(count: int, note: str = "") -> None:
        nonlocal done, shown_s
        done += count
        now_s = time.monotonic()
        if now_s - shown_s >= _PLAIN_EVERY_S or done == total:
            shown_s = now_s
            rate = done / max(now_s - start_s, 1e-9)
            left = datetime.timedelta(seconds=round((total - done) / rate)) if rate else "unknown"
            text = f"{what} {done:,}/{total:,} {unit}, {rate:,.1f}/s, {left} left"
            print(", ".join([text, note] if note else [text]), file=sys.stderr, flush=True)

    yield advance
