"""Run the commands of jobs on a Ray cluster, and print what they answer."""

from __future__ import annotations

import sys

from pipelines.flags.archives import StatusConfig
from pipelines.flags.jobs import LogsConfig, StopConfig, SubmitConfig
from teacher_cache.program.commandline import show


def submit(config: SubmitConfig) -> int:
    """Start a job, or attach to one that runs."""
    from pipelines import jobs

    found = jobs.submit(config)
    show(config, found, [f"{'submitted' if found.is_new else 'attached to'} {found.job}: {found.state}"])
    return 0


def logs(config: LogsConfig) -> int:
    """Print what a job prints."""
    from pipelines import jobs

    state = jobs.logs(config, lambda text: print(text, end="", flush=True))
    if not config.follow:
        return 0
    print(f"{config.job}: {state}", file=sys.stderr)
    return 0 if jobs.is_success(state) else 1


def stop(config: StopConfig) -> int:
    """Stop a job."""
    from pipelines import jobs

    print(f"{config.job}: {jobs.stop(config)}")
    return 0


def job_status(config: StatusConfig, job: str) -> int:
    """Print the state of a job."""
    from pipelines import jobs

    state = jobs.job_status(config, job)
    show(config, {"job": job, "state": state}, [f"{job}: {state}"])
    return 0
