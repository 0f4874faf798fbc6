"""Show progress on stderr: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import contextlib
import datetime
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress

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
        with _bar() as bar:
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


def say_on_stderr(text: str) -> None:
    """Print a line to stderr."""
    print(text, file=sys.stderr, flush=True)


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
        progress.TextColumn("{task.fields[note]}"),
    )
    return progress.Progress(*columns, console=Console(stderr=True))
