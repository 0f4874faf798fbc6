"""Run the commands of jobs on a Ray cluster, and print what they answer."""

from __future__ import annotations

import re

from pipelines.jobs.flags import LogsConfig, StopConfig, SubmitConfig
from teacher_cache.program.commandline import show
from teacher_cache.program.say import say, say_on_stderr

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""Colours in the output of a job, which would be escaped with other commands to a terminal."""


def submit(config: SubmitConfig) -> int:
    """Start a job, or attach to one that runs."""
    from pipelines.jobs import ray_jobs

    found = ray_jobs.submit(config)
    show(config, found, [f"{'submitted' if found.is_new else 'attached to'} {found.job}: {found.state}"])
    return 0


def logs(config: LogsConfig) -> int:
    """Print a job's output; with --follow, the exit code is 1 if the job did not succeed."""
    from pipelines.jobs import ray_jobs

    state = ray_jobs.logs(config, lambda text: say(_COLOURS.sub("", text), end=""))
    if not config.follow:
        return 0
    say_on_stderr(f"{config.job}: {state}")
    return 0 if ray_jobs.is_success(state) else 1


def stop(config: StopConfig) -> int:
    """Stop a job."""
    from pipelines.jobs import ray_jobs

    say(f"{config.job}: {ray_jobs.stop(config)}")
    return 0
