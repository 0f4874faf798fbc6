"""Faults that the service survives: kills of servers, drivers and executors, and servers that compete.

    python -m benchmarks.service_kills
    python -m benchmarks.service_kills --kills 0 --servers 2 --requests 200 --database postgresql+psycopg://...

Users ask for labels all the while. A killed server is started again. Every request that was accepted must be
done, once, and every archive must be, byte for byte, that of a plain `extract`. The exit code is 1 if a
promise did not hold.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import psutil
import sqlalchemy as sa
from msgspec import Meta

from benchmarks.common import report_figures
from benchmarks.serving import Serving
from pipelines.cli import main as teacher_cache_main
from pipelines.demo.digits import write_digits
from teacher_cache.archive.format.companions import is_companion
from teacher_cache.errors import TeacherCacheError
from teacher_cache.program.commandline import Command, run_single
from teacher_cache.program.flags import Flags
from teacher_cache.sharing.client import ENDED, Client

_PER_CLASS = 6
_TEACHER, _SIDE_PX, _VIEWS_PER_UNIT = "regnety_002", 32, 2
_TOP_KS = range(1, 11)
_RECIPES = ("deit", "deit3", "rrc")
_VIEW_STOPS = range(2, 18, 2)
_USERS = 4
_LEASE_S = 2.0
_PATIENCE_S = 3600.0
_PACKAGES = ("teacher-cache", "torch", "sqlalchemy", "fastapi", "uvicorn", "psycopg")
_TARGETS = ("server", "driver", "executor")


@dataclasses.dataclass(frozen=True)
class KillsConfig(Flags):
    """Kill parts of a service under load, and check that nothing was lost or done twice."""

    kills: Annotated[int, Meta(ge=0)] = 50
    """Kills of servers, drivers and executors, in turn."""
    requests: Annotated[int, Meta(ge=1, le=240)] = 24
    """Different requests; each is made by two users."""
    servers: Annotated[int, Meta(ge=1)] = 1
    """Servers on one database."""
    database: str | None = None
    """URL of an empty database; SQLite in a folder of its own by default."""
    seed: int = 0
    """Seed of the moments of the kills."""
    json: str | None = None
    """File for the figures as JSON."""


def run(config: KillsConfig) -> int:
    """Run the campaign, print its figures, and return the exit code."""
    folder = Path(tempfile.mkdtemp(prefix="service-kills-"))
    try:
        figures = _campaign(config, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    title = "Kills of the service under load"
    report_figures(title, figures, config, _PACKAGES, database=_dialect(config))
    wanted = {"accepted": "done_once", "archives": "archives_equal"}
    return 0 if all(figures[name] == figures[held] for name, held in wanted.items()) else 1


def _campaign(config: KillsConfig, folder: Path) -> dict[str, Any]:
    data = _packed(folder)
    asks = _asks(config)
    servers = [Serving(folder, number, **_service(config, folder, data)) for number in range(config.servers)]
    users = ("vision", "speech")
    tokens = [
        servers[0].new_token(f"user{number}", users[number % 2], ("read", "request"), max_requests=10_000)
        for number in range(_USERS)
    ]
    begun_s = time.monotonic()
    for server in servers:
        server.start()
    accepted: dict[str, None] = {}
    asking = [
        threading.Thread(target=_ask, args=(servers, tokens, asks[part::_USERS] * 2, part, accepted))
        for part in range(_USERS)
    ]
    for thread in asking:
        thread.start()
    killed = _kill(config, servers, lambda: _open_jobs(servers, tokens[0]) or any(map(_lives, asking)))
    for thread in asking:
        thread.join()
    jobs = _until_over(servers, tokens[0], len(asks))
    seconds = time.monotonic() - begun_s
    audit = _times_done(servers[0])
    for server in servers:
        server.stop()
    stops: dict[str, int] = {}
    for job in jobs:
        stops[job["archive"]] = max(stops.get(job["archive"], 0), _stop(job))
    equal = sum(
        _tree(folder / "archives" / name) == _tree(_undisturbed(folder, data, name, stop))
        for name, stop in stops.items()
    )
    return {
        "kills": sum(killed.values()),
        **{f"kills_of_{target}s": killed[target] for target in _TARGETS},
        "requests": len(asks) * 2,
        "accepted": len(accepted),
        "done_once": sum(audit.get(job, 0) == 1 for job in accepted),
        "done_twice": sum(times > 1 for times in audit.values()),
        "not_done": sum(job["state"] != "done" for job in jobs),
        "archives": len(stops),
        "archives_equal": equal,
        "seconds": round(seconds, 1),
    }


def _lives(thread: threading.Thread) -> bool:
    return thread.is_alive()


def _dialect(config: KillsConfig) -> str:
    """Return the name of the database's kind."""
    return "sqlite" if config.database is None else sa.engine.make_url(config.database).get_dialect().name


def _packed(folder: Path) -> Path:
    """Pack a few digits of each class."""
    write_digits(folder / "all")
    for digit in sorted((folder / "all" / "train").iterdir()):
        (folder / "images" / digit.name).mkdir(parents=True)
        for image in sorted(digit.iterdir())[:_PER_CLASS]:
            shutil.copy(image, folder / "images" / digit.name)
    words = ["pack", str(folder / "images"), str(folder / "data"), "--shard-size", "20"]
    if teacher_cache_main(words) != 0:
        raise TeacherCacheError("the digits cannot be packed")
    return folder / "data"


def _asks(config: KillsConfig) -> list[dict[str, Any]]:
    """Return different asks, those of one archive far apart; a few share each archive."""
    archives = list(itertools.product(_RECIPES, _TOP_KS))[: -(-config.requests // len(_VIEW_STOPS))]
    every = itertools.product(_VIEW_STOPS, archives)
    return [
        {"data": "digits", "teacher": "regnety", "img_size": _SIDE_PX, "affinity": "none"}
        | {"views": f"{stop - 2}:{stop}", "recipe": recipe, "topk": topk}
        for stop, (recipe, topk) in itertools.islice(every, config.requests)
    ]


def _service(config: KillsConfig, folder: Path, data: Path) -> dict[str, Any]:
    teacher = {"teacher": _TEACHER, "pretrained": False, "device": "cpu", "batch_size": 16}
    return {
        "database": config.database or f"sqlite:///{folder}/service.db",
        "data": {"digits": str(data)},
        "archives": str(folder / "archives"),
        "teachers": {"regnety": teacher},
        "teams": {"vision": {"share": 2}, "speech": {}},
        "views_per_unit": _VIEWS_PER_UNIT,
        "lease_s": _LEASE_S,
        "max_attempts": 1000,
        "requests_per_s": 1000.0,
        "burst": 1000,
    }


def _ask(
    servers: list[Serving],
    tokens: list[str],
    asks: list[dict[str, Any]],
    part: int,
    accepted: dict[str, None],
) -> None:
    """Ask for everything, again after every refusal: an answer is what makes a request accepted."""
    for number, ask in enumerate(asks):
        while True:
            server = servers[(number + part) % len(servers)]
            try:
                accepted[Client(server.url, tokens[(part + number) % _USERS]).request(**ask)["id"]] = None
                break
            except TeacherCacheError:
                time.sleep(0.2)


def _kill(config: KillsConfig, servers: list[Serving], is_busy: Any) -> Counter[str]:
    """Kill parts at random moments, and start servers again."""
    rng, killed = random.Random(config.seed), Counter[str]()
    while sum(killed.values()) < config.kills and is_busy():
        time.sleep(rng.uniform(0.1, 1.5))
        target = _TARGETS[sum(killed.values()) % len(_TARGETS)]
        server = rng.choice(servers)
        if target == "server":
            server.kill()
            server.start()
            killed[target] += 1
        else:
            killed[target] += _kill_child(server, target, rng)
    return killed


def _kill_child(server: Serving, target: str, rng: random.Random) -> bool:
    """Kill the process that begins commands, or one that runs a command; return whether there was one."""
    assert server.process is not None
    end_s = time.monotonic() + 5
    while time.monotonic() < end_s:
        try:
            children = psutil.Process(server.process.pid).children(recursive=True)
            forkservers = [child for child in children if "forkserver" in " ".join(child.cmdline())]
            commands = [child for child in forkservers if child.ppid() != server.process.pid]
            masters = [child for child in forkservers if child.ppid() == server.process.pid]
            found = commands if target == "driver" else masters if commands else []
            if found:
                rng.choice(found).kill()
                return True
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            pass
        time.sleep(0.02)
    return False


def _jobs(servers: list[Serving], token: str) -> list[dict[str, Any]]:
    for server in itertools.cycle(servers):
        try:
            return Client(server.url, token).requests(limit=1000)
        except TeacherCacheError:
            time.sleep(0.5)
    raise AssertionError


def _open_jobs(servers: list[Serving], token: str) -> bool:
    return any(job["state"] not in ENDED for job in _jobs(servers, token))


def _until_over(servers: list[Serving], token: str, num_jobs: int) -> list[dict[str, Any]]:
    end_s = time.monotonic() + _PATIENCE_S
    while True:
        jobs = _jobs(servers, token)
        if len(jobs) == num_jobs and all(job["state"] in ENDED for job in jobs):
            return jobs
        if time.monotonic() > end_s:
            raise TeacherCacheError(f"jobs are not over: {Counter(job['state'] for job in jobs)}")
        time.sleep(0.5)


def _times_done(server: Serving) -> dict[str, int]:
    """Return how often each job was settled as done, as the database counts."""
    engine = sa.create_engine(server.config["database"])
    with engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT id, times_done FROM jobs")).all()
    engine.dispose()
    return dict(rows)


def _stop(job: dict[str, Any]) -> int:
    return int(job["views"].partition(":")[2])


def _undisturbed(folder: Path, data: Path, archive: str, stop: int) -> Path:
    """Make an archive by a plain extract."""
    out = folder / "undisturbed" / archive
    recipe, topk = archive.rpartition("/")[2].split("-")[1:3]
    words = [
        *("extract", f"--data={data}", f"--out={out}", f"--views=0:{stop}", f"--teacher={_TEACHER}"),
        *("--no-pretrained", "--device=cpu", "--batch-size=16", f"--img-size={_SIDE_PX}", "--affinity=none"),
        *(f"--recipe={recipe}", f"--topk={topk.removeprefix('k')}", f"--views-per-unit={_VIEWS_PER_UNIT}"),
    ]
    if teacher_cache_main(words) != 0:
        raise TeacherCacheError(f"{archive} cannot be made")
    return out


def _tree(folder: Path) -> dict[str, bytes]:
    """Return every file of an archive with its bytes, without companions."""
    files = {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}
    return {name: file.read_bytes() for name, file in files.items() if not is_companion(name)}


if __name__ == "__main__":
    sys.exit(run_single("python -m benchmarks.service_kills", Command(KillsConfig, run), sys.argv[1:]))
