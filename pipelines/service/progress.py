"""Progress of a job, read from the events that its run writes beside the archive."""

from __future__ import annotations

import json
from typing import Any

from pipelines.extraction.record import EVENTS_FILE
from teacher_cache.archive.filling import Filling
from teacher_cache.storage.store import Store

_SECONDS = ("render_s", "teacher_s")


def run_dir_of(archive: Store, job: str) -> str:
    """Return the folder of a job's events, beside its archive."""
    name = archive.url.rpartition("/")[2]
    return archive.beside(f"../{name}.runs/service-{job}").url


def read_progress(archive: Store, job: str) -> dict[str, Any]:
    """Return the units and views that a job has done, and its GPU hours over all attempts.

    Args:
        archive: Store of the archive.
        job: Id of the job.
    """
    found: dict[str, Any] = {"units": 0, "units_done": 0, "views_done": 0, "gpu_hours": 0.0}
    try:
        lines = Store(run_dir_of(archive, job)).get(EVENTS_FILE).splitlines()
    except (FileNotFoundError, NotADirectoryError):
        lines = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:  # the last line of a run that was killed
            continue
        found["gpu_hours"] += sum(event.get(name, 0.0) for name in _SECONDS) / 3600
        if event.get("event") == "run_started":
            found |= {"units": event["units"] + event["units_done"], "units_done": event["units_done"]}
        elif event.get("event") == "unit_done":
            found["units_done"] += 1
            found["views_done"] += event["views"]
    news = Filling(archive).news()
    if news is not None:
        found["followed"] = news.state
    return found
