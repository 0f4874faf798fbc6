"""The one place that prints: text from elsewhere reaches a terminal without its power over it."""

from __future__ import annotations

import sys

from teacher_cache.errors import printable


def say(text: str, end: str = "\n") -> None:
    """Print a text to stdout, with control and direction characters escaped."""
    print(printable(text), end=end, flush=True)


def say_on_stderr(text: str) -> None:
    """Print a line to stderr, with control and direction characters escaped."""
    print(printable(text), file=sys.stderr, flush=True)
