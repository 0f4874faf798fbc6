"""What campaigns on the service use: a small dataset, labels to ask for, archives to compare with."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.cli import main as teacher_cache_main
from pipelines.demo.digits import write_digits
from teacher_cache.archive.format.companions import is_companion
from teacher_cache.errors import TeacherCacheError

_PER_CLASS = 6
_TEACHER, _SIDE_PX, _VIEWS_PER_UNIT = "regnety_002", 32, 2
_TOP_KS, _RECIPES = range(1, 11), ("deit", "deit3", "rrc")
_VIEW_STOPS = range(2, 98, 2)
_EXTRACT = [
    f"--img-size={_SIDE_PX}",
    "--affinity=none",
    f"--views-per-unit={_VIEWS_PER_UNIT}",
    f"--teacher={_TEACHER}",
]
_EXTRACT += ["--no-pretrained", "--device=cpu", "--batch-size=16"]
LEASE_S = 5.0


def packed(folder: Path) -> Path:
    """Pack a few digits of each class."""
    write_digits(folder / "all")
    for digit in sorted((folder / "all" / "train").iterdir()):
        (folder / "images" / digit.name).mkdir(parents=True)
        for image in sorted(digit.iterdir())[:_PER_CLASS]:
            shutil.copy(image, folder / "images" / digit.name)
    _command(["pack", str(folder / "images"), str(folder / "data"), "--shard-size", "20"])
    return folder / "data"


def asks() -> Iterator[dict[str, Any]]:
    """Yield 1,440 different asks of 30 archives; those of one archive are far apart."""
    for stop, topk, recipe in itertools.product(_VIEW_STOPS, _TOP_KS, _RECIPES):
        yield {
            **{"data": "digits", "teacher": "regnety", "img_size": _SIDE_PX, "affinity": "none"},
            **{"views": f"{stop - 2}:{stop}", "recipe": recipe, "topk": topk},
        }


def service_config(folder: Path, data: Path, database: str) -> dict[str, Any]:
    """Return the configuration of a server with short leases."""
    teacher = {"teacher": _TEACHER, "pretrained": False, "device": "cpu", "batch_size": 16}
    return {
        "database": database,
        "data": {"digits": str(data)},
        "archives": str(folder / "archives"),
        "teachers": {"regnety": teacher},
        "teams": {"vision": {"share": 2}, "speech": {}},
        "views_per_unit": _VIEWS_PER_UNIT,
        "lease_s": LEASE_S,
        "stop_grace_s": 5.0,
        "max_attempts": 1000,
        "requests_per_s": 1000.0,
        "burst": 1000,
    }


def differing(folder: Path, data: Path, jobs: list[dict[str, Any]]) -> list[str]:
    """Return the archives that are not, byte for byte, those of a plain `extract` of the same views."""
    stops: dict[str, int] = {}
    for job in jobs:
        stops[job["archive"]] = max(stops.get(job["archive"], 0), int(job["views"].partition(":")[2]))
    return [
        name
        for name, stop in stops.items()
        if _files(folder / "archives" / name) != _files(_undisturbed(folder, data, name, stop))
    ]


def _undisturbed(folder: Path, data: Path, archive: str, stop: int) -> Path:
    """Make the same archive by a plain extract."""
    out = folder / "undisturbed" / archive
    recipe, topk = archive.rpartition("/")[2].split("-")[1:3]
    words = ["extract", f"--data={data}", f"--out={out}", f"--views=0:{stop}", *_EXTRACT]
    _command([*words, f"--recipe={recipe}", f"--topk={topk.removeprefix('k')}"])
    return out


def _command(words: list[str]) -> None:
    if teacher_cache_main(words) != 0:
        raise TeacherCacheError(f"{words[0]} failed")


def _files(folder: Path) -> dict[str, bytes]:
    """Return every file of an archive with its bytes, without companions."""
    files = {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}
    return {name: file.read_bytes() for name, file in files.items() if not is_companion(name)}
