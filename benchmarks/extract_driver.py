"""Driver of a run on Ray with workers that do nothing: time per unit, and memory.

    python -m benchmarks.extract_driver

This runs in a process of its own without torch, like a real driver. `benchmarks.extract` starts it.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import ray.cloudpickle

import pipelines.extraction.running.extract  # noqa: F401  a driver has this module in memory
from pipelines.extraction.engines.engine import UnitDone, UnitResult
from pipelines.extraction.engines.ray import RayEngine
from pipelines.extraction.messages import Description, Rate, Trial
from pipelines.extraction.queue import MissingUnits, Task, UnitQueue
from pipelines.extraction.request import EngineSettings
from pipelines.extraction.running.record import RunRecord
from teacher_cache.archive.format.layout import Layout, Unit
from teacher_cache.labels.affinity_rule import CalibrationPart
from teacher_cache.program.commandline import Command, run_single
from teacher_cache.storage.store import Store


@dataclasses.dataclass(frozen=True)
class DriverConfig:
    """Run units that do nothing on Ray, and plan a large number of units."""

    units: int = 10_000
    """Units to run."""
    planned: int = 1_000_000
    """Units to plan; --units of them are run."""
    actors: int = 2
    """Number of Ray actors."""


class Idle:
    """A worker that does nothing."""

    def describe(self) -> Description:
        """Return an empty description."""
        return Description({}, "", {}, "cpu")

    def measure(self, layout: Layout, unit: Unit, num_views: int) -> Rate:
        """Return a rate without measuring."""
        del layout, unit
        return Rate(num_views, 0.0, 0.0, 0.0)

    def try_calibration(self, num_views: int) -> Trial:
        """Return a rate without measuring."""
        return Trial(Rate(num_views, 0.0, 0.0, 0.0), None)

    def put_figures(self, archive: Store, advance: object) -> None:
        """Write nothing."""

    def freeze_calibration(self, parts: Sequence[CalibrationPart]) -> None:
        """Do nothing; there is no calibration."""

    def compute(self, task: Task, advance: Callable[[int], None]) -> Task:
        """Count a unit as done."""
        advance(1)
        return task

    def write(self, unit: Task) -> UnitResult:
        """Return an empty result without writing."""
        del unit
        return UnitResult(1, 1, 0.0, 0.0, 0.0)

    def close(self) -> None:
        """Do nothing; there are no processes to end."""


def _drive(engine: RayEngine, units: Iterable[Unit], limit: int) -> tuple[float, float]:
    """Run units like `extract`, with a record; return wall-clock and CPU seconds of this process a unit."""
    queue = UnitQueue(units, retries=2, max_quarantined=10)
    with tempfile.TemporaryDirectory() as folder:
        record = RunRecord(Store(folder), lambda: datetime.datetime.now(datetime.UTC))
        done, start_s, start_cpu_s = 0, time.perf_counter(), time.process_time()
        for event in engine.run(queue, _ignore):
            record.add(event)
            done += isinstance(event, UnitDone)
            if done == limit:
                queue.stop()
        seconds, cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
        record.close("finished", seconds, {}, {})
    return seconds / limit, cpu_s / limit


def _ignore(views: int) -> None:
    del views


def _peak_mb() -> float:
    """Return the peak memory of this process in MB; getrusage would include the parent's peak."""
    status = Path("/proc/self/status").read_text()
    return int(re.findall(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)[0]) / 1000


def _main(config: DriverConfig) -> int:
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors need not import benchmarks
    settings = EngineSettings(num_actors=config.actors, cpus_per_actor=0.5, device="cpu")
    engine = RayEngine(Idle, settings)
    try:
        started_mb = _peak_mb()
        units = (Unit(number, 0, 0, 1) for number in range(config.units))
        unit_s, unit_cpu_s = _drive(engine, units, config.units)
        run_mb = _peak_mb()
        layout = Layout(num_shards=1000, rows_per_shard=1000, views_per_unit=1, k=10, num_classes=1000)
        missing = MissingUnits(layout, range(config.planned // 1000), ())
        _drive(engine, missing, config.units)
        planned = len(missing)
    finally:
        engine.close()
    result = {
        "units": config.units,
        "unit_ms": round(1000 * unit_s, 3),
        "unit_cpu_ms": round(1000 * unit_cpu_s, 3),
        "started_mb": round(started_mb, 1),
        "run_mb": round(run_mb, 1),
        "planned": planned,
        "planned_mb": round(_peak_mb(), 1),
        "torch_imported": "torch" in sys.modules,
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(run_single("benchmarks.extract_driver", Command(DriverConfig, _main), sys.argv[1:]))
