"""Flags of the commands of the service, a frozen dataclass per command."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from msgspec import Meta
from tyro.conf import Positional

from teacher_cache.errors import InputError
from teacher_cache.labels.encodings import Values
from teacher_cache.program.flags import PATH, Check, Flags, JsonFlag, parse_views

Action = Literal["submit", "resolve", "show", "list", "approve", "cancel", "retry"]
_OF_ONE = ("show", "approve", "cancel", "retry")
_OF_LABELS = ("submit", "resolve")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeConfig(Flags):
    """Serve labels to teams: they ask for labels, and get a link to them."""

    config: Annotated[str, PATH]
    """Configuration of the service: service.yaml, as docs/service.md describes it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenConfig(Flags, JsonFlag):
    """Make a token for a user of the service, in the service's database."""

    config: Annotated[str, PATH]
    """Configuration of the service."""
    name: str
    """Name of the user."""
    team: str
    """Team of the user, as the configuration names it."""
    scopes: tuple[Literal["read", "request", "approve", "admin"], ...] = ("read", "request")
    """Scopes of the token: read labels, request them, approve jobs above a limit, admin (tokens, audit)."""
    days: Annotated[float, Meta(gt=0, le=3660)] = 90.0
    """Days until the token expires."""
    max_requests: Annotated[int, Meta(ge=0)] = 1000
    """Requests that the token may make in 30 days."""
    max_gpu_hours: Annotated[float, Meta(ge=0)] = 100.0
    """GPU hours in 30 days above which a job of the token waits for approval."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RequestConfig(Flags, JsonFlag):
    """Request labels from the service at TEACHER_CACHE_SERVICE, with the token in TEACHER_CACHE_TOKEN."""

    action: Positional[Action]
    """Action: submit, resolve (say which views are labelled), list; show, approve, cancel or retry --id."""
    id: str | None = None
    """Id of a request."""
    data: str | None = None
    """Name of a dataset, as the service offers it."""
    teacher: str | None = None
    """Name of a teacher, as the service offers it."""
    recipe: str = "deit"
    """Name of a recipe, as the service offers it."""
    views: Annotated[str, Check(parse_views)] = "0:1"
    """View indices A:B."""
    img_size: Annotated[int | None, Meta(ge=1)] = None
    """Side of a view in pixels; the recipe's by default."""
    topk: Annotated[int, Meta(ge=1)] = 10
    """Classes kept of each label."""
    values: Values = "q8"
    """Format of stored logits."""
    affinity: Literal["calibrated", "none"] = "calibrated"
    """Class affinity of the archive."""
    follow: bool = False
    """Make labels one view at a time, for a student that follows the job."""
    webhook: str | None = None
    """URL to notify when the job ends, on a host that the service allows."""
    wait: bool = False
    """Wait until the job of submit or show is over; exit code 1 if it failed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.id is None) == (self.action in _OF_ONE):
            raise InputError(
                f"{self.action} with --id {self.id}",
                "It is not clear which request is meant.",
                f"give --id to {', '.join(_OF_ONE)}, and to nothing else",
            )
        if self.action in _OF_LABELS and (self.data is None or self.teacher is None):
            raise InputError(
                f"{self.action} without --data or --teacher",
                "It is not clear which labels are meant.",
                "give both, by the names that the service offers",
            )
