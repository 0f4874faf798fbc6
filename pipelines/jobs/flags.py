"""Flags of the commands that use a Ray cluster's Jobs API."""

from __future__ import annotations

import dataclasses
import os

from tyro.conf import Positional

from pipelines.extraction.flags import ActorFlags, LabelFlags
from teacher_cache.program.flags import Flags, JsonFlag

DEFAULT_DASHBOARD = "http://127.0.0.1:8265"


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobFlags(Flags):
    """Cluster to use; the token is read from RAY_AUTH_TOKEN, or the file that RAY_AUTH_TOKEN_PATH names."""

    dashboard: str | None = None
    """Address of the cluster's dashboard; by default RAY_API_SERVER_ADDRESS, or http://127.0.0.1:8265."""

    @property
    def dashboard_url(self) -> str:
        """Address of the dashboard, from the flag, the environment or the default."""
        return self.dashboard or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_DASHBOARD


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubmitConfig(JobFlags, ActorFlags, LabelFlags, JsonFlag):
    """Run `extract` as a job on a Ray cluster; submitting the same plan again attaches to its running job.

    Paths refer to the cluster's machines; relative paths start at the current folder. A recipe's file is
    sent to the cluster; data is not.
    """


@dataclasses.dataclass(frozen=True)
class LogsConfig(JobFlags):
    """Print the output of a job of a Ray cluster."""

    job: Positional[str]
    """Id of the job, as `submit` printed it."""
    follow: bool = False
    """Continue until the job ends; exit code 1 if the job did not succeed."""


@dataclasses.dataclass(frozen=True)
class StopConfig(JobFlags):
    """Stop a job of a Ray cluster: running units are finished first, and the archive stays whole."""

    job: Positional[str]
    """Id of the job, as `submit` printed it."""
