"""Faults that the service survives under load: killed and stopped processes, wrong clocks, a faulty database.

    python -m benchmarks.service_faults
    python -m benchmarks.service_faults --database postgresql

Users ask for labels all the while. Every request that was accepted must be done, once; no job that a server
could run waits for more than two lease times; /health of every server that runs answers within a second; and
every archive must be, byte for byte, that of a plain `extract`. The exit code is 1 if a promise did not hold.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, Literal

import sqlalchemy as sa
from msgspec import Meta

from benchmarks.common import report_figures
from benchmarks.service_databases import Database, open_place
from benchmarks.service_ground import LEASE_S, asks, differing, packed, service_config
from benchmarks.service_processes import Clocks, ProcessFaults
from benchmarks.service_watch import Health, Load, State, Waits
from benchmarks.serving import Serving
from teacher_cache.program.commandline import Command, run_single
from teacher_cache.program.flags import Flags
from teacher_cache.sharing.client import ENDED

_USERS, _READERS = 8, 2
_LONG = ("locked", "away", "frozen")
_DRAIN_S, _PAUSE_S = 600.0, 1.0
_PACKAGES = ("teacher-cache", "torch", "sqlalchemy", "fastapi", "uvicorn", "psycopg")
Fault = Callable[[], AbstractContextManager[None]]


@dataclasses.dataclass(frozen=True)
class ServiceFaultsConfig(Flags):
    """Make faults in a service under load, and check that nothing was lost, done twice or stuck."""

    faults: Annotated[int, Meta(ge=0)] = 100
    """Faults of all kinds, in a random order."""
    kinds: tuple[str, ...] = ()
    """Kinds of faults; by default all that can be made here."""
    long_faults: Annotated[int, Meta(ge=0)] = 6
    """Times that the database is locked, away or frozen for a minute; other faults last seconds."""
    minute_s: Annotated[float, Meta(gt=0)] = 60.0
    """Duration of that minute, in seconds."""
    servers: Annotated[int, Meta(ge=1)] = 2
    """Servers on one database."""
    requests: Annotated[int, Meta(ge=1, le=1440)] = 1440
    """Largest number of different requests; users stop asking when the last fault is over."""
    database: Literal["sqlite", "postgresql"] = "sqlite"
    """Kind of the database."""
    seed: int = 0
    """Seed of the order and the moments of the faults."""
    json: str | None = None
    """File for the figures as JSON."""


def run(config: ServiceFaultsConfig) -> int:
    """Run the campaign, print its figures, and return the exit code."""
    folder = Path(tempfile.mkdtemp(prefix="service-faults-"))
    try:
        with contextlib.closing(open_place(config.database, folder)) as place:
            figures = _campaign(config, folder, place)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report_figures("Faults of the service under load", figures, config, _PACKAGES)
    broken = [name for name, held in _promises(figures).items() if not held]
    for name in broken:
        sys.stderr.write(f"a promise did not hold: {name}\n")
    return 1 if broken else 0


def _promises(figures: dict[str, Any]) -> dict[str, bool]:
    return {
        "every fault was made": figures["faults"] == figures["faults_asked"],
        "every accepted request is done, once": figures["accepted"] == figures["done_once"],
        "none is done twice": figures["done_twice"] == 0,
        "none waits for more than two lease times": figures["longest_wait_s"] <= 2 * LEASE_S,
        "/health answers within a second": figures["health_slowest_ms"] <= 1000,
        "archives are those of a plain extract": not figures["archives_differing"],
        "logs hold no traceback": figures["tracebacks"] == 0,
    }


def _campaign(config: ServiceFaultsConfig, folder: Path, place: Database) -> dict[str, Any]:
    data = packed(folder)
    clocks = Clocks(folder, share_one=config.database == "sqlite")
    servers = []
    for number in range(config.servers):
        servers.append(Serving(folder, number, **service_config(folder, data, place.url)))
        servers[-1].environment = {**clocks.environment(number), "OMP_NUM_THREADS": "1"}
    tokens = [
        servers[0].new_token(f"user{number}", team, ("read", "request"), max_requests=100_000)
        for number, team in enumerate(("vision", "speech") * (_USERS // 2))
    ]
    for server in servers:
        server.start()
    engine = sa.create_engine(place.url, poolclass=sa.pool.NullPool)
    state = State(servers)
    wanted = list(asks())[: config.requests]
    load, health, waits = Load(state, tokens, wanted), Health(state), Waits(state, engine)
    processes = ProcessFaults(state, clocks, config.seed)
    starts = [functools.partial(processes.wait_for_command, server) for server in servers]
    users = [*[load.ask] * _USERS, *[load.read] * _READERS]
    faults = _faults(processes, place, state)
    made = Counter[str]()
    begun_s = time.monotonic()
    gc.collect()
    gc.freeze()  # a full collection here would count as a slow answer
    with _running([*starts, *users, *health.probes(), waits.watch], state):
        for name, fault, hold_s in _schedule(config, faults, random.Random(config.seed)):
            if load.is_over():
                break
            with fault():
                time.sleep(hold_s)
            made[name] += 1
            line = f"{time.strftime('%H:%M:%S')} {sum(made.values())} {name}, {hold_s:.0f} s: "
            line += f"{len(load.accepted)} accepted, longest wait {waits.longest_s:.1f} s {waits.longest_of}"
            sys.stderr.write(f"{line}, slowest /health {health.slowest_s():.2f} s\n")
            time.sleep(_PAUSE_S)
        while config.faults == 0 and not load.is_over():
            time.sleep(0.2)
        load.stop()
        jobs = _drained(engine, time.monotonic() + _DRAIN_S)
    seconds = time.monotonic() - begun_s
    for server in servers:
        server.stop()
    done = {job["id"]: job["times_done"] for job in jobs}
    engine.dispose()
    return {
        "faults_asked": config.faults,
        "faults": sum(made.values()) - processes.missed,
        "faults_by_kind": dict(sorted(made.items())),
        "left_out": dict(place.left_out),
        "accepted": len(load.accepted),
        "accepted_by_two": sum(len(askers) > 1 for askers in load.accepted.values()),
        "refused_and_asked_again": load.refused,
        "done_once": sum(done.get(job) == 1 for job in load.accepted),
        "done_twice": sum(times > 1 for times in done.values()),
        "states": dict(Counter(job["state"] for job in jobs)),
        "errors": sorted({job["error"] for job in jobs if job["error"]}),
        "longest_wait_s": round(waits.longest_s, 1),
        "longest_wait_of": waits.longest_of,
        "lease_s": LEASE_S,
        **health.figures(),
        "archives": len({job["archive"] for job in jobs}),
        "archives_differing": differing(folder, data, [job for job in jobs if job["state"] == "done"]),
        "tracebacks": sum(server.log.read_text().count("Traceback") for server in servers),
        "seconds": round(seconds, 1),
    }


def _faults(processes: ProcessFaults, place: Database, state: State) -> dict[str, Fault]:
    def of_database(fault: Fault) -> Fault:
        @contextlib.contextmanager
        def made() -> Iterator[None]:
            with state.database_fault(), fault():
                yield

        return made

    return {**processes.faults, **{name: of_database(fault) for name, fault in place.faults.items()}}


def _schedule(
    config: ServiceFaultsConfig, faults: dict[str, Fault], rng: random.Random
) -> Iterator[tuple[str, Fault, float]]:
    """Yield faults with the seconds that each lasts: every kind as often as another, in a random order."""
    names, long_faults = list(config.kinds or faults), 0
    for turn in range(config.faults):
        if turn % len(names) == 0:
            rng.shuffle(names)
        name = names[turn % len(names)]
        hold_s = rng.uniform(0.2, 1.6) * LEASE_S
        if name in _LONG and long_faults < config.long_faults:
            long_faults += 1
            hold_s = config.minute_s
        yield name, faults[name], hold_s


@contextlib.contextmanager
def _running(works: list[Callable[[], None]], state: State) -> Iterator[None]:
    """Run functions in threads until the context ends."""
    threads = [threading.Thread(target=work, daemon=True) for work in works]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        state.is_stopped.set()
        state.is_over.set()
        for thread in threads:
            thread.join()


def _drained(engine: sa.Engine, end_s: float) -> list[dict[str, Any]]:
    """Return all jobs once they have ended, or as they are at a time."""
    query = "SELECT jobs.id, state, error, times_done, first_view, stop_view, archive FROM jobs"
    query += " JOIN label_sets ON label_sets.id = jobs.labels"
    while True:
        with engine.connect() as connection:
            rows = [dict(row) for row in connection.execute(sa.text(query)).mappings()]
        if all(row["state"] in ENDED for row in rows) or time.monotonic() > end_s:
            return [{**row, "views": f"{row['first_view']}:{row['stop_view']}"} for row in rows]
        time.sleep(0.5)


if __name__ == "__main__":
    sys.exit(
        run_single("python -m benchmarks.service_faults", Command(ServiceFaultsConfig, run), sys.argv[1:])
    )
