"""Executor of commands on a Ray cluster, over its Jobs API: a cluster keeps running what a server began."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.jobs import ray_jobs
from pipelines.jobs.flags import JobFlags, SubmitConfig
from pipelines.service.jobs.executor import Verb

_COMPLAINT_LINES = 12


class RayExecutor:
    """Executor that submits a Ray job, or attaches to a running job with the same flags.

    Args:
        dashboard: URL of the cluster's dashboard.
    """

    def __init__(self, dashboard: str, slots: int) -> None:
        self._dashboard, self.slots = dashboard, slots

    def prepare(self) -> None:
        """Do nothing: the cluster is ready; see Executor."""

    def begin(self, verb: Verb, flags: Mapping[str, Any]) -> RayExecution:
        """Begin a command, or find it; see Executor."""
        config = SubmitConfig(**{**flags, "dashboard": self._dashboard})
        return RayExecution(self._dashboard, ray_jobs.submit(config, verb).job)


class RayExecution:
    """Job of a Ray cluster; see Execution."""

    def __init__(self, dashboard: str, job: str) -> None:
        self._flags, self._job = JobFlags(dashboard=dashboard), job

    def exit_code(self) -> int | None:
        """Return the exit code once the job is over; see Execution."""
        return ray_jobs.exit_code(self._flags, self._job)

    def stop(self) -> None:
        """Ask the job to stop; see Execution."""
        ray_jobs.ask_to_stop(self._flags, self._job)

    def kill(self) -> None:
        """Do nothing: the server that now holds the lease continues the job; see Execution."""

    def end(self) -> None:
        """Do nothing: some time after `stop`, the cluster kills the job itself; see Execution."""

    def output(self) -> str:
        """Return what the job printed; see Execution."""
        return ray_jobs.output(self._flags, self._job)

    def complaint(self) -> str:
        """Return the last lines that the job printed; see Execution."""
        return "\n".join(self.output().strip().splitlines()[-_COMPLAINT_LINES:])
