"""Run `extract` and `plan` through a Ray cluster's Jobs API, with at most one running job per plan."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import yaml
from ray.exceptions import RayError
from ray.job_submission import JobStatus, JobSubmissionClient

from pipelines.extraction.flags import DEFAULT_DRAIN_S, ActorFlags, ExtractConfig, LabelFlags
from pipelines.jobs.flags import JobFlags, LogsConfig, StopConfig, SubmitConfig
from teacher_cache.errors import InputError
from teacher_cache.exact.canonical import sha256_of
from teacher_cache.program.flags import LABELS, flags_with, with_absolute_paths
from teacher_cache.views.recipe import load_recipe

_FLAGS_FILE = "flags.yaml"
_RECIPE_FILE = "recipe.yaml"
_ENTRYPOINTS = {
    verb: f"python -m pipelines.cli {verb} --config {_FLAGS_FILE}" for verb in ("extract", "plan")
}
_STOP_MARGIN_S = 15.0
_POLL_S = 1.0
_KILLED = 137
"""Exit code that is reported for a job that was killed or stopped."""


@dataclasses.dataclass(frozen=True)
class Submission:
    """A job that runs a plan.

    Attributes:
        state: State of the job, in Ray's words: PENDING, RUNNING, STOPPED, SUCCEEDED, FAILED.
        is_new: Whether this call started the job, rather than finding a running one.
    """

    job: str
    state: str
    is_new: bool


def submit(config: SubmitConfig, verb: Literal["extract", "plan"] = "extract") -> Submission:
    """Start the job of a plan, or find the running one.

    Raises:
        InputError: The cluster cannot be reached, or refuses the job.
    """
    recipe = load_recipe(config.recipe, config.img_size)
    flags = _flags(with_absolute_paths(config))
    if verb == "plan":
        flags["json"] = True  # what reads the job's output reads a line of JSON
    asked = {name: flags.get(name) for name in flags_with(LabelFlags, LABELS)}
    plan = sha256_of({**asked, "recipe": recipe.to_dict(), **({} if verb == "extract" else {"verb": verb})})
    with _client(config) as client, tempfile.TemporaryDirectory() as folder:
        if Path(config.recipe).is_file():
            shutil.copyfile(config.recipe, Path(folder, _RECIPE_FILE))
            flags["recipe"] = _RECIPE_FILE
        Path(folder, _FLAGS_FILE).write_text(yaml.safe_dump(flags))
        drain_s = DEFAULT_DRAIN_S if config.drain_s is None else config.drain_s
        environment = {"RAY_JOB_STOP_WAIT_TIME_S": str(round(drain_s + _STOP_MARGIN_S))}
        for is_last in (False, False, True):
            begun = _jobs_of(client, plan)
            number, latest = max(begun.items(), default=(0, None))
            if latest is not None and not latest.status.is_terminal():
                return Submission(latest.submission_id, latest.status.value, is_new=False)
            job = f"{_prefix(plan)}{number + 1}"
            try:
                client.submit_job(
                    entrypoint=_ENTRYPOINTS[verb],
                    submission_id=job,
                    runtime_env={"working_dir": folder, "env_vars": environment},
                    metadata={"plan": plan, "data": str(flags["data"]), "out": str(flags["out"])},
                )
            except RuntimeError as error:
                if is_last or "already" not in str(error):
                    raise
                continue  # another process started the job just now
            return Submission(job, client.get_job_status(job).value, is_new=True)
    raise AssertionError  # the last try returns or raises


def job_status(flags: JobFlags, job: str) -> str:
    """Return the state of a job, and Ray's message about it."""
    with _client(flags) as client:
        found = client.get_job_info(job)
        return f"{found.status.value}: {found.message}" if found.message else found.status.value


def logs(config: LogsConfig, show: Callable[[str], object]) -> str:
    """Show the output of a job, until its end with --follow, and return the job's state."""
    with _client(config) as client:
        num_shown = 0
        while True:
            state = client.get_job_status(config.job)
            text = client.get_job_logs(config.job)
            show(text[num_shown:])
            num_shown = len(text)
            if not config.follow or state.is_terminal():
                return state.value
            time.sleep(_POLL_S)


def stop(config: StopConfig) -> str:
    """Stop a job, wait until it has stopped, and return its state."""
    with _client(config) as client:
        client.stop_job(config.job)
        while not (state := client.get_job_status(config.job)).is_terminal():
            time.sleep(_POLL_S)
        return state.value


def exit_code(flags: JobFlags, job: str) -> int | None:
    """Return the exit code of a job's driver, 137 if it was killed or stopped, None while it runs."""
    with _client(flags) as client:
        found = client.get_job_info(job)
        if not found.status.is_terminal():
            return None
        if found.status == JobStatus.SUCCEEDED:
            return 0
        code = found.driver_exit_code
        return _KILLED if code is None or found.status == JobStatus.STOPPED else code


def ask_to_stop(flags: JobFlags, job: str) -> None:
    """Ask a job to stop, without waiting for its end."""
    with _client(flags) as client:
        client.stop_job(job)


def output(flags: JobFlags, job: str) -> str:
    """Return what a job has printed."""
    with _client(flags) as client:
        return client.get_job_logs(job)


def is_success(state: str) -> bool:
    """Return whether the job succeeded."""
    return state == JobStatus.SUCCEEDED.value


def _flags(config: SubmitConfig) -> dict[str, Any]:
    """Return the flags of a job's extract that differ from their defaults."""
    fields = {*dataclasses.fields(LabelFlags), *dataclasses.fields(ActorFlags)}
    defaults = {field.name: field.default for field in dataclasses.fields(ExtractConfig)}
    flags: dict[str, Any] = {"engine": "ray", "address": "auto"}
    for name in sorted(field.name for field in fields):
        value = getattr(config, name)
        if value == defaults[name]:
            continue
        flags[name] = list(value) if isinstance(value, tuple) else value
    return flags


def _prefix(plan: str) -> str:
    return f"extract-{plan[:12]}-"


def _jobs_of(client: JobSubmissionClient, plan: str) -> dict[int, Any]:
    """Return the jobs that were started for a plan, by number."""
    prefix = _prefix(plan)
    ids = {job.submission_id or "": job for job in client.list_jobs()}
    return {int(name.removeprefix(prefix)): job for name, job in ids.items() if name.startswith(prefix)}


@contextlib.contextmanager
def _client(flags: JobFlags) -> Iterator[JobSubmissionClient]:
    """Yield a client of a cluster's Jobs API, and raise its errors as InputError."""
    try:
        yield JobSubmissionClient(flags.dashboard_url)
    except (OSError, ValueError, RuntimeError, RayError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise InputError(
            f"--dashboard {flags.dashboard_url}: {lines[0] if lines else error!r}",
            "No job was started or stopped.",
            "check the address and the job's id; to send a token, set RAY_AUTH_TOKEN and RAY_AUTH_MODE=token",
        ) from error
