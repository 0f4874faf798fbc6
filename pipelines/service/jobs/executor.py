"""Interface of an executor: it runs commands of this program, and knows no rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Protocol

Verb = Literal["plan", "extract"]


class Execution(Protocol):
    """Command that an executor runs."""

    def exit_code(self) -> int | None:
        """Return the exit code; None while it runs."""
        ...

    def stop(self) -> None:
        """Ask it to stop: units under way are finished."""
        ...

    def kill(self) -> None:
        """End it at once; finished units stay."""
        ...

    def output(self) -> str:
        """Return what it printed."""
        ...

    def complaint(self) -> str:
        """Return the last lines of what went wrong."""
        ...


class Executor(Protocol):
    """Place where commands run."""

    @property
    def slots(self) -> int:
        """Number of commands at a time."""
        ...

    def begin(self, verb: Verb, flags: Mapping[str, Any]) -> Execution:
        """Begin a command with flags by name.

        Raises:
            TeacherCacheError: It cannot begin.
        """
        ...
