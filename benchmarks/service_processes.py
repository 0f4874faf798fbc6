"""Faults of the processes of a service: killed, stopped for a while, or with a clock that is an hour off."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

import psutil

from benchmarks.service_watch import State
from benchmarks.serving import Serving

_HOUR_S = 3600
_SHIFTED = """import os, time
_clock = time.time

def _shifted():
    with open(os.environ["SHIFTED_BY"]) as file:
        return _clock() + float(file.read())

time.time = _shifted
"""
"""Module that Python imports at its start."""
_SEEK_S, _RESTART_S, _DEATH_S, _LOOK_S = 5.0, 60.0, 30.0, 0.1
Part = Literal["server", "driver", "executor"]
"""A server, the process that begins its commands (executor), or one that runs a command (driver)."""
_PARTS: tuple[Part, ...] = ("server", "driver", "executor")


class Clocks:
    """Clocks of servers: Python's clock of the day is shifted there by what a file says.

    Args:
        folder: Folder of the files.
        share_one: Whether all servers have one clock, as they have where they share a database's file.
    """

    def __init__(self, folder: Path, *, share_one: bool) -> None:
        self._folder, self._share_one = folder / "clocks", share_one
        self._folder.mkdir()
        (self._folder / "sitecustomize.py").write_text(_SHIFTED)

    def environment(self, server: int) -> Mapping[str, str]:
        """Return the environment of a server whose clock can be shifted."""
        self.shift(server, 0)
        return {"SHIFTED_BY": str(self._file(server)), "PYTHONPATH": str(self._folder)}

    def shift(self, server: int, seconds: int) -> None:
        """Set how far a server's clock is ahead."""
        new = self._file(server).with_suffix(".new")
        new.write_text(str(seconds))
        new.rename(self._file(server))

    def _file(self, server: int) -> Path:
        return self._folder / f"shift{0 if self._share_one else server}"


class ProcessFaults:
    """Faults by name, each of a random server.

    Attributes:
        missed: Number of faults for which no process was found.
    """

    def __init__(self, state: State, clocks: Clocks, seed: int) -> None:
        self.missed = 0
        self._state, self._clocks, self._rng = state, clocks, random.Random(seed)
        self.faults: dict[str, Callable[[], AbstractContextManager[None]]] = {}
        for part in _PARTS:
            self.faults[f"kill {part}"] = lambda part=part: self._killed(part)  # type: ignore[misc]
            self.faults[f"stop {part}"] = lambda part=part: self._stopped(part)  # type: ignore[misc]
        self.faults["clock"] = self._wrong_clock

    def wait_for_command(self, server: Serving) -> None:
        """Mark a server's executor as stopped until it has imported torch, and runs a command."""
        with self._state.executor_fault(server):
            self._process(server, "driver", _RESTART_S)

    def _server(self) -> Serving:
        return self._rng.choice(self._state.servers)

    @contextlib.contextmanager
    def _killed(self, part: Part) -> Iterator[None]:
        server = self._server()
        if part == "driver":
            self._kill(server, part)
        else:
            with self._state.executor_fault(server):
                if part == "executor":
                    self._kill(server, part)
                else:
                    with self._state.server_fault(server):
                        server.kill()
                        server.start()
                self.wait_for_command(server)
        yield

    def _kill(self, server: Serving, part: Part) -> None:
        process = self._process(server, part)
        if process is None:
            self.missed += 1
        else:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
                # until then its children are still the server's, and look like commands of the next one
                _wait_for_death(process, time.monotonic() + _DEATH_S)

    @contextlib.contextmanager
    def _stopped(self, part: Part) -> Iterator[None]:
        server = self._server()
        process = self._process(server, part)
        self.missed += process is None
        contexts = {"server": self._state.server_fault, "executor": self._state.executor_fault}
        context = contexts[part](server) if part in contexts else contextlib.nullcontext()
        with context, contextlib.suppress(psutil.NoSuchProcess):
            if process is not None:
                process.send_signal(signal.SIGSTOP)
            try:
                yield
            finally:
                if process is not None:
                    process.send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def _wrong_clock(self) -> Iterator[None]:
        number = self._rng.randrange(len(self._state.servers))
        self._clocks.shift(number, self._rng.choice((-_HOUR_S, _HOUR_S)))
        with self._state.clock_fault():
            try:
                yield
            finally:
                self._clocks.shift(number, 0)

    def _process(self, server: Serving, part: Part, patience_s: float = _SEEK_S) -> psutil.Process | None:
        """Return one of a server's processes; None if it has none for some seconds."""
        assert server.process is not None
        end_s = time.monotonic() + patience_s
        while time.monotonic() < end_s:
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess, ProcessLookupError):
                whole = psutil.Process(server.process.pid)
                children = whole.children(recursive=True)
                forked = [child for child in children if "forkserver" in " ".join(child.cmdline())]
                # a command leads a process group; what an executor's imports run for a moment does not
                commands = [child for child in forked if os.getpgid(child.pid) == child.pid]
                executors = [child for child in forked if child.ppid() == server.process.pid]
                found = {"server": [whole], "driver": commands, "executor": executors if commands else []}
                if found[part]:
                    return self._rng.choice(found[part])
            time.sleep(_LOOK_S)
        return None


def _wait_for_death(process: psutil.Process, end_s: float) -> None:
    while process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < end_s:
        time.sleep(0.01)
