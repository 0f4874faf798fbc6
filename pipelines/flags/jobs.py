"""The flags of the commands that speak to a Ray cluster's Jobs API."""

from __future__ import annotations

import dataclasses
import os

from tyro.conf import Positional

from pipelines.flags.extract import ActorFlags, LabelRequest
from teacher_cache.program.flags import Flags, JsonFlag

DEFAULT_DASHBOARD = "http://127.0.0.1:8265"


@dataclasses.dataclass(frozen=True, kw_only=True)
class JobFlags(Flags):
    """Which cluster. Its token is taken from RAY_AUTH_TOKEN, or the file that RAY_AUTH_TOKEN_PATH names."""

    dashboard: str | None = None
    """Address of the cluster's dashboard; RAY_API_SERVER_ADDRESS, or http://127.0.0.1:8265, if not given."""

    @property
    def dashboard_url(self) -> str:
        """The address, wherever it is from."""
        return self.dashboard or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_DASHBOARD


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubmitConfig(JobFlags, ActorFlags, LabelRequest, JsonFlag):
    """Run an extract as a job of a Ray cluster; the same plan again attaches to the job that runs it.

    Paths are those of the cluster's machines; relative ones are taken from here. No data is sent: a
    recipe's file is.
    """


@dataclasses.dataclass(frozen=True)
class LogsConfig(JobFlags):
    """Print what a job of a Ray cluster printed."""

    job: Positional[str]
    """Its id, as `submit` printed it."""
    follow: bool = False
    """Go on until the job ends; exit code 1 if it did not succeed."""


@dataclasses.dataclass(frozen=True)
class StopConfig(JobFlags):
    """Stop a job of a Ray cluster: what is under way is finished first, and the archive stays whole."""

    job: Positional[str]
    """Its id, as `submit` printed it."""
