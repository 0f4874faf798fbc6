"""Show progress on stderr: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import contextlib
import datetime
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from teacher_cache.errors import printable
from teacher_cache.program.say import say_on_stderr

if TYPE_CHECKING:
    from rich.progress import Progress

_FIRST_AFTER_S, _PLAIN_EVERY_S = 2.0, 10.0
"""Seconds before the first line of text, and between two lines, where there is no terminal."""


class Advance(Protocol):
    """Function that reports how many more items are done, with an optional note beside the count."""

    def __call__(self, count: int, note: str = "") -> None:
        """Report `count` more items as done, and show `note` until another note replaces it."""
        ...


class Track(Protocol):
    """Function that opens a progress display."""

    def __call__(self, what: str, total: int, unit: str) -> contextlib.AbstractContextManager[Advance]:
        """Open a display of progress over `total` items named `unit`."""
        ...


def ignore(count: int, note: str = "") -> None:
    """Do nothing; an `Advance` without a display."""
    del count, note


def counting(advance: Callable[[int], None]) -> Track:
    """Return a `Track` that shows nothing and passes each count to `advance`."""

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
    """Open no display; a `Track` that shows nothing."""
    del what, total, unit
    yield ignore


@contextlib.contextmanager
def console(what: str, total: int, unit: str) -> Iterator[Advance]:
    """Open a display of share done, rate and time left on stderr; a `Track`."""
    if sys.stderr.isatty():
        with _bar() as bar:
            task = bar.add_task(what, total=total, unit=unit, note="")

            def show(count: int, note: str = "") -> None:
                fields: dict[str, Any] = {"note": printable(note)} if note else {}
                bar.update(task, advance=count, **fields)

            yield show
        return
    start_s = time.monotonic()
    next_s, done, last_note = start_s + _FIRST_AFTER_S, 0, ""

    def advance(count: int, note: str = "") -> None:
        nonlocal done, next_s, last_note
        done, last_note = done + count, note or last_note
        now_s = time.monotonic()
        if now_s >= next_s or done == total:
            next_s = now_s + _PLAIN_EVERY_S
            rate = done / max(now_s - start_s, 1e-9)
            left = datetime.timedelta(seconds=round((total - done) / rate)) if rate else "unknown"
            text = f"{what} {done:,}/{total:,} {unit}, {rate:,.1f}/s, {left} left"
            say_on_stderr(", ".join(filter(None, [text, last_note])))

    yield advance


def _bar() -> Progress:
    """Return a bar with rate, share done and time left."""
    from rich import progress  # heavy, and only a terminal needs it
    from rich.console import Console
    from rich.text import Text

    class Rate(progress.ProgressColumn):
        def render(self, task: progress.Task) -> Text:
            """Show the number of items done per second."""
            return Text(f"{task.speed or 0:,.1f} {task.fields['unit']}/s")

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        Rate(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[note]}", markup=False),
    )
    return progress.Progress(*columns, console=Console(stderr=True))
