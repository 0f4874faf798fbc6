"""Description of the machine that a figure was measured on."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from teacher_cache.exact.canonical import canonical_json


def environment(packages: tuple[str, ...]) -> dict[str, Any]:
    """Return hardware, date and package versions, for the head of a result."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def write_result(
    file: str | None, experiment: str, config: Any, found: Mapping[str, Any], packages: tuple[str, ...]
) -> None:
    """Print where an experiment ran, and write its result as JSON to a file, if one is given.

    Args:
        file: File for the result.
        experiment: Name of the experiment.
        config: Flags of the experiment, a dataclass; those that are paths are left out.
        found: Figures of the experiment.
        packages: Packages whose versions matter.
    """
    head = environment(packages)
    print(head)
    if file:
        settings = {**dataclasses.asdict(config), "json": None, "out": None}
        if "data" in settings:
            settings["data"] = Path(settings["data"]).name
        result = {"experiment": experiment, **head, "config": settings, **found}
        Path(file).write_bytes(canonical_json(result) + b"\n")
