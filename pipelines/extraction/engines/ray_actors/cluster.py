"""Ray cluster as the driver sees it: actors that hold workers, resources, results of calls, lost nodes."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.extraction.engines.engine import Advance, Tally, UnitResult, Worker
from pipelines.extraction.queue import Task
from pipelines.extraction.request import EngineSettings

_KILL_WITHIN_S = 10.0


class ActorResources(NamedTuple):
    """Number of actors, and the resources that each of them takes."""

    num_actors: int
    gpus: float
    cpus: float

    def __str__(self) -> str:
        return f"{self.gpus:g} GPUs and {self.cpus:g} CPUs"


def actor_resources(settings: EngineSettings) -> ActorResources:
    """Return the actors that the settings ask for, or by default those that the cluster has room for."""
    there = ray.cluster_resources()
    gpus, cpus, num_actors = settings.gpus_per_actor, settings.cpus_per_actor, settings.num_actors
    if gpus is None:
        has_gpu = settings.device == "auto" and bool(there.get("GPU"))
        gpus = 1.0 if has_gpu or settings.device.startswith("cuda") else 0.0
    if cpus is None:
        cpus = float(max(1, settings.workers))
        if not gpus and num_actors:
            cpus = max(float(settings.workers), _cpu_share(num_actors, there.get("CPU", 0.0)))
    room = [there.get(name, 0.0) // taken for name, taken in (("GPU", gpus), ("CPU", cpus)) if taken]
    return ActorResources(num_actors or max(1, int(min(room, default=1.0))), gpus, cpus)


def what_is_free() -> str:
    """Return the cluster's free GPUs and CPUs as text."""
    there = ray.available_resources()
    return f"{there.get('GPU', 0):g} GPUs and {there.get('CPU', 0):g} CPUs"


def _cpu_share(num_actors: int, num_cpus: float) -> float:
    """Return each actor's equal share of the CPUs: a whole number, or a fraction below one."""
    largest = max(node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"])
    share = min(largest, num_cpus / num_actors)
    return float(int(share)) if share >= 1 else int(share * 100) / 100


def result_of(ref: Any) -> Any:
    """Return the result of a call, or raise the actor's error unchanged."""
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, Exception):
            error.cause.add_note(str(error))  # the traceback in the actor's process
            raise error.cause from None
        raise


def kill_on(node: str, pid: int) -> None:
    """Kill an actor's process: a hung one does not react to Ray, and would keep its device."""
    where = NodeAffinitySchedulingStrategy(node, soft=False)
    kill = ray.remote(kill_process).options(num_cpus=0, max_retries=0, scheduling_strategy=where)
    ray.wait([kill.remote(pid)], timeout=_KILL_WITHIN_S)


def is_gone(node: str) -> bool:
    """Return whether a node left the cluster."""
    return not any(there["NodeID"] == node and there["Alive"] for there in ray.nodes())


def reason_of(error: BaseException) -> str:
    """Return the most informative line of an error: for an actor's death, the last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [repr(error)]
    return lines[-1 if isinstance(error, ray.exceptions.RayActorError) else 0]


@dataclasses.dataclass(frozen=True)
class Started:
    """Node and process of an actor."""

    node: str
    pid: int


class Actor:
    """Holder of a worker. Calls run in threads, and one unit at a time is computed."""

    def __init__(self, make_worker: Callable[[], Worker]) -> None:
        self._make_worker = make_worker
        self._worker: Any = None
        self._turn = threading.Lock()
        self._views = 0

    def start(self) -> Started:
        """Make the worker; an error in this method reaches the driver unchanged, unlike one in __init__."""
        self._worker = self._make_worker()
        return Started(ray.get_runtime_context().get_node_id(), os.getpid())

    def ask(self, task: Callable[[Worker, Advance], Any]) -> tuple[Any, int]:
        """Call `task` with the worker; return its result, and the count from `views`."""
        with self._turn:
            value = task(self._worker, self._count)
        return value, self._views

    def run(self, unit: Task) -> tuple[UnitResult, int]:
        """Compute and write a unit; return its figures, and the count from `views`."""
        views = Tally(self._count)
        try:
            with self._turn:
                computed = self._worker.compute(unit, views.add)
            return self._worker.write(computed), self._views
        except BaseException:
            views.take_back()
            raise

    def views(self) -> int:
        """Return the number of views labelled so far, without those of failed units."""
        return self._views

    def _count(self, views: int) -> None:
        self._views += views


def kill_process(pid: int) -> None:
    """Kill a process of this machine, if it exists."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
