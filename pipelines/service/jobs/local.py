"""Executor of commands as processes of this machine; they end with the server that began them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pkgutil
import signal
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from pipelines.service.jobs.executor import Verb
from teacher_cache.program.commandline import as_words

_PRELOADED = ["pipelines.cli", "pipelines.extraction.running.extract", "pipelines.extraction.worker.worker"]
_PRELOADED += ["timm", "zarr", "numba"]  # seconds of every command, if it imports them itself
_COMPLAINT_LINES = 12
_NICENESS = 5
"""Priority below the server's, which must answer while commands keep all cores busy."""
_ITS_OWN_CODES = (0, 1, 2)
"""Exit codes of a command that ended by itself; any other may mean that the forking process was killed."""


class LocalExecutor:
    """Executor that forks from a process with torch and timm imported: a command begins in milliseconds."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOADED)
        self._begun: list[LocalExecution] = []
        self._is_ready = False

    def prepare(self) -> None:
        """Start the forking process if there is none, and wait until it forks; see Executor."""
        codes = [execution.exit_code() for execution in self._begun]
        self._begun = [each for each, code in zip(self._begun, codes, strict=True) if code is None]
        if not self._is_ready or set(codes) - {None, *_ITS_OWN_CODES}:
            process = self._context.Process(target=_do_nothing)
            process.start()
            process.join()
            self._is_ready = True

    def begin(self, verb: Verb, flags: Mapping[str, Any]) -> LocalExecution:
        """Begin a command; see Executor."""
        execution = LocalExecution(self._context, [verb, *as_words({**flags, "json": True})])
        self._begun.append(execution)
        return execution


class LocalExecution:
    """Process that runs a command; see Execution."""

    def __init__(self, context: multiprocessing.context.ForkServerContext, words: Sequence[str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="teacher-cache-")
        here, self._life_line = context.Pipe(duplex=False)
        arguments = (list(words), self._folder.name, here)
        self._process = context.Process(target=_run, args=arguments)
        self._process.start()
        here.close()

    def exit_code(self) -> int | None:
        """Return the exit code; see Execution."""
        return self._process.exitcode

    def stop(self) -> None:
        """Ask it to stop; see Execution."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once; see Execution."""
        self.end()
        self._life_line.close()
        self._process.join()

    def end(self) -> None:
        """Kill its process group, also where it is stopped and could not end itself; see Execution."""
        if self._process.pid is not None and self._process.exitcode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getpgid(self._process.pid) == self._process.pid:
                    os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()

    def output(self) -> str:
        """Return what it printed; see Execution."""
        return Path(self._folder.name, "output").read_text()

    def complaint(self) -> str:
        """Return the last lines of stderr; see Execution."""
        lines = Path(self._folder.name, "errors").read_text(errors="replace").strip().splitlines()
        return "\n".join(lines[-_COMPLAINT_LINES:])

    def _signal(self, number: signal.Signals) -> None:
        if self._process.pid is not None and self._process.exitcode is None:
            os.kill(self._process.pid, number)


def _do_nothing() -> None:
    pass


def _run(words: Sequence[str], folder: str, life_line: Connection) -> None:
    """Run a command in a process group of its own, which ends when the server does."""
    os.setsid()
    os.nice(_NICENESS)
    for number, name in ((1, "output"), (2, "errors")):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    threading.Thread(target=_end_with_the_server, args=(life_line,), daemon=True).start()
    code = pkgutil.resolve_name("pipelines.cli:main")(words)  # the command line is above this room
    sys.stdout.flush()
    sys.exit(code)


def _end_with_the_server(life_line: Connection) -> None:
    try:
        life_line.recv_bytes()
    except (EOFError, OSError):
        os.killpg(os.getpgrp(), signal.SIGKILL)
