"""What strangers can do: mutated documents, hostile text on pages, hostile requests; counted by outcome.

    python -m benchmarks.attacks

Each mutation changes a file of a small signed archive, dataset, export or catalog, and vouches for it with a
new sha256, as an attacker would; then it is read in several ways. No code may run, no host be asked, no file
outside the folders be read, no traceback be printed, no reading take 30 s or 1 GiB, and labels read with a
key must be the right ones. The exit code is 1 if one of these was not so.
"""

from __future__ import annotations

import collections
import dataclasses
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta
from rich.console import Console
from rich.table import Table

from benchmarks.attack_documents import run
from benchmarks.attack_ground import make_ground
from benchmarks.attack_pages import attack_pages
from benchmarks.attack_requests import attack_requests
from benchmarks.common import write_json
from benchmarks.machine import environment
from teacher_cache.program.commandline import Command, run_single
from teacher_cache.program.flags import Flags


@dataclasses.dataclass(frozen=True)
class AttacksConfig(Flags):
    """Attack readers, pages and the service, and count the outcomes."""

    mutations: Annotated[int, Meta(ge=0)] = 5000
    """Mutated copies of the documents and files."""
    requests: Annotated[int, Meta(ge=0)] = 20
    """Hostile requests to each route with each kind of token."""
    pages: bool = True
    """Open pages with hostile strings in Chromium."""
    processes: Annotated[int, Meta(ge=1)] = 2
    """Processes that read mutated copies."""
    seed: Annotated[int, Meta(ge=0)] = 0
    """Seed of all mutations and requests."""
    json: str | None = None
    """File for the result."""


def _documents(arguments: tuple[Any, Path, int, int]) -> Any:
    ground, folder, count, seed = arguments
    folder.mkdir()
    return run(ground, folder, count, seed)


def _attack(config: AttacksConfig) -> int:
    failures: list[str] = []
    result: dict[str, Any] = {"environment": environment(("msgspec", "pyarrow", "zarr"))}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ |= {"XDG_STATE_HOME": f"{name}/state", "XDG_CONFIG_HOME": f"{name}/config"}
        ground = make_ground(folder)
        share, context = -(-config.mutations // config.processes), multiprocessing.get_context("spawn")
        tasks = [(ground, folder / f"{n}", share, config.seed + n) for n in range(config.processes)]
        tally: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        with context.Pool(config.processes) as pool:
            for found, bad in pool.map(_documents, tasks) if config.mutations else ():
                failures += bad
                for reader, outcomes in found.items():
                    tally[reader].update(outcomes)
            pool.close()
            pool.join()
        result["documents"] = {reader: dict(outcomes) for reader, outcomes in tally.items()}
        if config.requests:
            asked = attack_requests(str(ground.whole / "data"), folder, config.requests, config.seed)
            failures += asked.failures
            result |= {"requests": dict(asked.statuses), "service_bytes": asked.peak_bytes}
            result["flood"] = asked.flood
        if config.pages:
            shown = attack_pages(ground, folder)
            failures += shown.failures if shown else []
            result["pages"] = (
                "not tried: no Chromium"
                if shown is None
                else {"pages": shown.pages, "strings": shown.strings}
            )
    _show(result, failures)
    write_json(config.json, {**result, "failures": failures})
    return 1 if failures else 0


def _show(result: dict[str, Any], failures: list[str]) -> None:
    console = Console(width=110)
    table = Table("what", "outcomes", title=f"{len(failures)} failures")
    for reader, outcomes in result["documents"].items():
        table.add_row(
            reader, ", ".join(f"{outcome} {count:,}" for outcome, count in sorted(outcomes.items()))
        )
    by_status: dict[str, list[str]] = collections.defaultdict(list)
    for name, count in sorted(result.get("requests", {}).items()):
        user, _, status = name.partition(": ")
        by_status[user].append(f"{status} {count:,}")
    for user, statuses in by_status.items():
        table.add_row(f"requests, token {user}", ", ".join(statuses))
    table.add_row("24 clients, 4 MiB each, no token", str(result.get("flood", "not tried")))
    table.add_row("pages in Chromium", str(result.get("pages", "not tried")))
    console.print(table)
    for failure in failures[:20]:
        console.print(failure, markup=False)


if __name__ == "__main__":
    sys.exit(run_single("attacks", Command(AttacksConfig, _attack), sys.argv[1:]))
