"""Service of one server: its parts put together, and what it does for an ask."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import functools
import secrets
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from starlette.types import ASGIApp

from pipelines.explorer.app import make_app
from pipelines.explorer.collection import Collection
from pipelines.service.ask import Ask, job_id, label_set_of, views_of
from pipelines.service.config import RaySection, ServiceConfig
from pipelines.service.database.leases import Leases
from pipelines.service.database.ledger import Action, Ledger, Queries, Who, missing
from pipelines.service.database.records import Job
from pipelines.service.database.tables import Probe, database_clock, open_database
from pipelines.service.database.tokens import Tokens
from pipelines.service.http.access import Access
from pipelines.service.http.answers import Offer, RequestAnswer, Resolved, link_of, link_to, request_answer
from pipelines.service.http.guard import RateLimit
from pipelines.service.http.metrics import Metrics
from pipelines.service.http.objects import Objects
from pipelines.service.jobs.executor import Executor
from pipelines.service.jobs.local import LocalExecutor
from pipelines.service.jobs.runner import Runner
from pipelines.service.jobs.webhooks import Webhooks, check_webhook
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.archive.readers.source import view_ranges
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import InputError

_WRITES = 8
"""Requests that write at a time; each may wait for the database in a thread of its own."""
_EXPLORERS = 4
"""Number of archives whose explorers stay open."""


@dataclasses.dataclass(frozen=True, eq=False)
class Service:
    """Parts of a server.

    Attributes:
        probe: Finds out whether the database can be written to.
        writes: Permits of requests that write, so that those which wait leave threads for reads.
        streams: Number of open event streams by token, changed under `counting`.
    """

    config: ServiceConfig
    tokens: Tokens
    ledger: Ledger
    queries: Queries
    access: Access
    metrics: Metrics
    objects: Objects
    runner: Runner
    probe: Probe
    writes: asyncio.Semaphore
    counting: threading.Lock = dataclasses.field(default_factory=threading.Lock)
    streams: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    def offer(self) -> Offer:
        """Return the names that an ask may use."""
        config = self.config
        return Offer(
            data=sorted(config.data),
            teachers=sorted(config.teachers),
            recipes=sorted(config.recipes),
            views_per_unit=config.views_per_unit,
        )

    def resolve(self, ask: Ask) -> Resolved:
        """Return which requested views are already labelled; nothing is written. Raises InputError."""
        labels, views = label_set_of(ask, self.config), views_of(ask, self.config)
        done, job = self.queries.found(labels, views)
        lacking = missing(views, done if self.objects.has_views(labels.archive, done) else [])
        link = None
        if not lacking:
            of_job = link_of(job, self.config) if job is not None and job.state == "done" else None
            link = of_job or link_to(labels.archive, self.config)
        return Resolved(
            state="there" if not lacking else "partly" if len(lacking) < len(views) else "absent",
            views=f"{views.start}:{views.stop}",
            missing=view_ranges(lacking) if lacking else "none",
            link=link,
            request=None if job is None else request_answer(job, self.config),
        )

    def submit(self, ask: Ask, who: Who) -> RequestAnswer:
        """Record a request, and return its job. Raises InputError."""
        if ask.webhook is not None:
            check_webhook(ask.webhook, self.config.webhooks)
        if who.team not in self.config.teams:
            raise InputError(
                f"team {who.team!r} is no longer in the configuration of this service",
                "There would be no team to charge for the request.",
                "ask an administrator for a token of another team",
            )
        labels, views = label_set_of(ask, self.config), views_of(ask, self.config)
        is_lost = self._is_lost(self.queries.job(job_id(labels, views)))
        return request_answer(self.ledger.submit(ask, labels, views, who, is_lost=is_lost), self.config)

    def _is_lost(self, job: Job | None) -> bool:
        """Return whether a job was done when it was read, and its archive lacks its views now."""
        if job is None or job.state != "done":
            return False
        return not self.objects.has_views(job.archive, [job.views], look=True)

    def act(self, action: Action, job: str, who: Who) -> RequestAnswer | None:
        """Approve, cancel or retry a job; None if there is none. Raises InputError."""
        is_lost = action == "retry" and self._is_lost(self.queries.job(job))
        changed = self.ledger.act(action, job, who, is_lost=is_lost)
        return None if changed is None else request_answer(changed, self.config)

    @functools.lru_cache(maxsize=_EXPLORERS)  # noqa: B019  # a server has one Service
    def explorer(self, archive: str, manifest_sha256: str) -> ASGIApp:
        """Return an archive's explorer, cached by manifest, with images if the service has its dataset."""
        del manifest_sha256
        reader = ArchiveReader(f"{self.config.archives}/{archive}")
        data = self.config.data.get(archive.partition("/")[0])
        dataset = None if data is None else PackedDataset(data, images_in=self.config.images_in)
        if dataset is not None and dataset.info.sha256 != reader.spec.dataset["sha256"]:
            dataset = None
        return make_app(Collection(reader, dataset), hosts=None, name=archive)


def make_service(config: ServiceConfig, now: Callable[[], float] | None = None) -> Service:
    """Open the database, and put the parts of a server together; nothing runs yet.

    Args:
        now: Clock of all times that are written; the database's by default.

    Raises:
        InputError: The database or the root of archives cannot be used.
    """
    engine = open_database(config.database, config.database_password_file)
    now = now or database_clock(engine)
    queries = Queries(engine, now)
    metrics = Metrics(queries.queue, queries.hours)
    tokens = Tokens(engine, now)
    limit = RateLimit(config.requests_per_s, config.burst, time.monotonic)
    return Service(
        config=config,
        tokens=tokens,
        ledger=Ledger(engine, now),
        queries=queries,
        access=Access(tokens, limit, config.netloc, now),
        metrics=metrics,
        objects=Objects(config.archives),
        runner=_runner(config, engine, now),
        probe=Probe(engine, f"{socket.gethostname()[:32]}-{secrets.token_hex(4)}", now),
        writes=asyncio.Semaphore(_WRITES),
    )


def _runner(config: ServiceConfig, engine: sa.Engine, now: Callable[[], float]) -> Runner:
    shares = {team: section.share for team, section in config.teams.items()}
    leases = Leases(engine, now, config.lease_s, shares)
    return Runner(config, leases, _executor(config), Webhooks(engine, config.webhooks, now))


def _executor(config: ServiceConfig) -> Executor:
    section: Any = config.executor
    if isinstance(section, RaySection):
        from pipelines.service.jobs.ray import RayExecutor  # imports ray, which takes seconds

        return RayExecutor(section.dashboard, section.slots)
    return LocalExecutor(section.slots)
