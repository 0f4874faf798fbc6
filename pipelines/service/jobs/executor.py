"""Interface of an executor, which runs commands of this program and does not use the database."""

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
        """Ask the command to stop once the units under way are finished."""
        ...

    def kill(self) -> None:
        """Leave the command: it ends with this server, or goes on for the next; its finished units stay."""
        ...

    def end(self) -> None:
        """End a command that does not stop when it is asked to; its finished units stay."""
        ...

    def output(self) -> str:
        """Return what the command printed."""
        ...

    def complaint(self) -> str:
        """Return the last lines that the command printed about its failure."""
        ...


class Executor(Protocol):
    """Runs commands of this program."""

    @property
    def slots(self) -> int:
        """Number of commands at a time."""
        ...

    def prepare(self) -> None:
        """Get ready to begin commands. This may take seconds, and is called before a lease is taken."""
        ...

    def begin(self, verb: Verb, flags: Mapping[str, Any]) -> Execution:
        """Begin a command with flags by name.

        Raises:
            TeacherCacheError: It cannot begin.
        """
        ...
