"""Ways to kill an extraction at a random moment."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import time
from pathlib import Path

import torch

from pipelines.cli import main as teacher_cache

_OF_AN_EXTRACT = (
    "timm",
    "zarr.codecs",
    "numcodecs.blosc",
    "pyarrow.parquet",
    "pipelines.extraction.worker.worker",
)
"""Modules that an extract imports when it needs them."""


def forked(argv: list[str], *, uid: int | None = None) -> int:
    """Start a command in a new process group; return its pid. This process must not have used torch."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        os.setsid()
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        if uid is not None:
            for module in _OF_AN_EXTRACT:  # the user may not read them where Python lies in root's home
                importlib.import_module(module)
            os.setgroups([])
            os.setegid(uid)
            os.seteuid(uid)
        torch.set_num_threads(1)
        code = teacher_cache(argv)
    finally:
        os._exit(code)


def run_command_line(argv: list[str], *, uid: int | None = None) -> int:
    """Run a command to its end and return its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(forked(argv, uid=uid), 0)[1])


def has_ended(pid: int) -> bool:
    """Return whether a process ended, without reaping it."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _workers_of(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def kill_writer(pid: int, out: Path, delay_s: float) -> bool:
    """Kill the whole run `delay_s` seconds after its archive appeared."""
    del out
    return _sleep(pid, delay_s) and _kill(pid)


def kill_worker(pid: int, out: Path, delay_s: float) -> bool:
    """Kill a rendering process, if one exists at that moment; the run tries the unit again."""
    del out
    if not _sleep(pid, delay_s):
        return False
    while not has_ended(pid):
        for worker in _workers_of(pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
                return True
    return False


def kill_between_objects_and_receipt(pid: int, out: Path, delay_s: float) -> bool:
    """Kill the run after a delay, as soon as a unit has an object and no receipt."""
    if not _sleep(pid, delay_s):
        return False
    while not has_ended(pid):
        objects = {
            (file.parent.name, file.name)
            for file in out.glob("labels.zarr/tail/c/*/*")
            if file.name.isdigit()
        }
        receipts = {(str(int(n.stem[:5])), str(int(n.stem[6:]))) for n in out.glob("receipts/0*.json")}
        if objects - receipts:
            return _kill(pid)
    return False


def _sleep(pid: int, seconds: float) -> bool:
    """Wait, and return whether the process still runs."""
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        if has_ended(pid):
            return False
        time.sleep(0.0005)
    return not has_ended(pid)


def _kill(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
        return True
    return False
