"""CPU seconds and peak memory of short commands, here and in another commit.

    python -m benchmarks.commands --commit 4d58039

Every command is a whole process; the operating system's account of it is read when it ends (wait4). Commands
run on a small archive and a small service, which this tree makes, and in turn: here, there, here, there.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, NamedTuple

from msgspec import Meta
from rich.console import Console
from rich.table import Table

from benchmarks.common import write_json, write_photographs
from benchmarks.machine import environment
from benchmarks.serving import untrained_service
from pipelines.cli import main as teacher_cache_main
from teacher_cache.errors import TeacherCacheError
from teacher_cache.program.commandline import Command, run_single
from teacher_cache.program.flags import Flags

_ROOT = Path(__file__).parents[1]
_WORKTREE = ["git", "-C", str(_ROOT), "worktree"]
_IMAGES = 64
_MEASURE = """
import json, os, sys
nowhere = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=nowhere)
_, status, use = os.wait4(pid, 0)
print(json.dumps([status, use.ru_utime + use.ru_stime, use.ru_maxrss]))
"""
"""Program of a small process that runs another: a large one's memory would count as the child's."""


class _Use(NamedTuple):
    cpu_s: float
    peak_mb: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class CommandsConfig(Flags):
    """Measure short commands, here and in another commit."""

    commit: str | None = None
    """The other commit; none measures this tree alone."""
    repeats: Annotated[int, Meta(ge=1)] = 5
    """Runs of each command, after one that is not counted."""
    json: str | None = None
    """File for the result."""


def run(config: CommandsConfig) -> int:
    """Measure, print a table, and return 0."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        trees = {"now": _ROOT}
        if config.commit is not None:
            trees["before"] = root / "checkout"
            add = [*_WORKTREE, "add", "--detach", str(trees["before"]), config.commit]
            subprocess.run(add, check=True, capture_output=True)
        try:
            found = _measured(config, root, trees)
        finally:
            if config.commit is not None:
                subprocess.run([*_WORKTREE, "remove", "--force", str(trees["before"])], check=True)
    table = Table(title="medians of whole processes")
    for header in ("command", *(f"{tree}: CPU s, peak MB" for tree in trees)):
        table.add_column(header)
    for name, by_tree in found.items():
        middle = [
            [statistics.median(values) for values in zip(*by_tree[tree], strict=True)] for tree in trees
        ]
        table.add_row(name, *(f"{cpu_s:.2f}, {peak_mb:.0f}" for cpu_s, peak_mb in middle))
    Console(width=110).print(table)
    head = environment(("torch", "timm", "numpy", "tyro"))
    write_json(config.json, {"benchmark": "commands", **head, "commit": config.commit, "runs": found})
    return 0


def _measured(config: CommandsConfig, root: Path, trees: dict[str, Path]) -> dict[str, dict[str, list[_Use]]]:
    data, labels = str(root / "data"), str(root / "labels")
    write_photographs(root / "images", _IMAGES)
    teacher = ["--teacher=regnety_002", "--no-pretrained", "--device=cpu", "--img-size=64", "--views=0:4"]
    for words in (
        ["pack", str(root / "images"), data],
        ["extract", f"--data={data}", f"--out={labels}", *teacher],
    ):
        if teacher_cache_main(words) != 0:
            raise TeacherCacheError(f"{words[0]} failed")
    serving = untrained_service(root, "photographs", data)
    token = serving.new_token("one", "vision", ("read", "request"))
    serving.start()
    variables = {"TEACHER_CACHE_SERVICE": serving.url, "TEACHER_CACHE_TOKEN": token}
    commands = {
        "teacher-cache --help": ["pipelines.cli", "--help"],
        "student --help": ["student.cli", "--help"],
        "teacher-cache status": ["pipelines.cli", "status", labels],
        "teacher-cache view --help": ["pipelines.cli", "view", "--help"],
        "teacher-cache request list": ["pipelines.cli", "request", "list"],
        "teacher-cache push": ["pipelines.cli", "push", labels],
        "teacher-cache verify --level full": ["pipelines.cli", "verify", labels, "--level", "full"],
    }
    found: dict[str, dict[str, list[_Use]]] = {}
    number = 0
    try:
        for name, words in commands.items():
            by_tree: dict[str, list[_Use]] = {tree: [] for tree in trees}
            for repeat in range(config.repeats + 1):
                for tree, folder in trees.items():
                    number += 1
                    target = [str(root / f"pushed{number}")] if name.endswith("push") else []
                    use = _use([sys.executable, "-m", *words, *target], folder, variables)
                    if repeat:
                        by_tree[tree].append(use)
            found[name] = by_tree
    finally:
        serving.kill()
    return found


def _use(command: list[str], folder: Path, variables: dict[str, str]) -> _Use:
    done = subprocess.run(
        [sys.executable, "-S", "-c", _MEASURE, *command],
        cwd=folder,
        env={**os.environ, **variables, "PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE,
        check=True,
    )
    status, cpu_s, peak_kb = json.loads(done.stdout)
    if status != 0:
        raise TeacherCacheError(f"{' '.join(command[2:])} ended with status {status}")
    return _Use(cpu_s, peak_kb / 1024)


if __name__ == "__main__":
    sys.exit(run_single("python -m benchmarks.commands", Command(CommandsConfig, run), sys.argv[1:]))
