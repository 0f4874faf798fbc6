"""Progress of a job, from the records of its runs beside the archive."""

from __future__ import annotations

import json
from typing import Any

from pipelines.extraction.running.record import EVENTS_FILE
from teacher_cache.following.job import Filling
from teacher_cache.storage.store import Store

_SECONDS = ("render_s", "teacher_s")


def run_dir_of(archive: Store, job: str, attempt: int) -> str:
    """Return the folder of the events of an attempt at a job, beside its archive."""
    name = archive.url.rpartition("/")[2]
    return archive.beside(f"../{name}.runs/service-{job}/{attempt}").url


def read_progress(archive: Store, job: str, attempts: int, views: range) -> dict[str, Any]:
    """Return the units and views that a job has done, its GPU hours and its events over all attempts."""
    found: dict[str, Any] = {"units": 0, "units_done": 0, "views_done": 0, "gpu_hours": 0.0, "steps": 0}
    for attempt in range(1, attempts + 1):
        _add_events(found, Store(run_dir_of(archive, job, attempt)))
    news = Filling(archive).news()
    if news is not None and any(first <= views.start and views.stop <= stop for first, stop in news.views):
        found["followed"] = news.state
    return found


def _add_events(found: dict[str, Any], run: Store) -> None:
    """Add the units, views and GPU hours in the events of one attempt to `found`."""
    try:
        lines = run.get(EVENTS_FILE).splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:  # the last line of a run that was killed
            continue
        found["steps"] += 1
        found["gpu_hours"] += sum(event.get(name, 0.0) for name in _SECONDS) / 3600
        if event.get("event") == "run_started":
            found |= {"units": event["units"] + event["units_done"], "units_done": event["units_done"]}
        elif event.get("event") == "unit_done":
            found["units_done"] += 1
            found["views_done"] += event["views"]
