"""Service of one server: its parts put together, and what it does for an ask."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from pipelines.service.access import Access
from pipelines.service.answers import JobAnswer, Offer, Resolved, job_answer, link_of
from pipelines.service.ask import Ask, label_set_of, views_of
from pipelines.service.books import Books, missing
from pipelines.service.config import RaySection, ServiceConfig
from pipelines.service.executors.executor import Executor
from pipelines.service.executors.local import LocalExecutor
from pipelines.service.guard import RateLimit
from pipelines.service.leases import Leases
from pipelines.service.ledger import Ledger, Who
from pipelines.service.metrics import Metrics
from pipelines.service.objects import Objects
from pipelines.service.runner import Runner
from pipelines.service.tables import open_database
from pipelines.service.tokens import Tokens
from pipelines.service.webhooks import Webhooks, check_webhook
from teacher_cache.archive.source import view_ranges


@dataclasses.dataclass(frozen=True)
class Service:
    """Parts of a server.

    Attributes:
        config: Configuration.
        tokens: Tokens of users.
        ledger: Changes of requests and jobs.
        books: Facts of the database.
        access: Access to routes.
        metrics: Figures for Prometheus.
        objects: Objects of archives.
        runner: Runner of jobs.
    """

    config: ServiceConfig
    tokens: Tokens
    ledger: Ledger
    books: Books
    access: Access
    metrics: Metrics
    objects: Objects
    runner: Runner

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
        done, row = self.books.found(labels, views)
        lacking = missing(views, done)
        link = None
        if not lacking:
            row_of_link = {"state": "done", "is_followed": False, "archive": labels.archive, "progress": None}
            link = link_of(row if row is not None and row["state"] == "done" else row_of_link, self.config)
        return Resolved(
            state="there" if not lacking else "partly" if len(lacking) < len(views) else "absent",
            views=f"{views.start}:{views.stop}",
            missing=view_ranges(lacking) if lacking else "none",
            link=link,
            request=None if row is None else job_answer(row, self.config),
        )

    def submit(self, ask: Ask, who: Who) -> JobAnswer:
        """Write down a request, and return its job. Raises InputError."""
        if ask.webhook is not None:
            check_webhook(ask.webhook, self.config.webhooks)
        labels, views = label_set_of(ask, self.config), views_of(ask, self.config)
        return self.answer(self.ledger.submit(ask, labels, views, who)["id"])

    def answer(self, job: str) -> JobAnswer:
        """Return a job that exists."""
        row = self.books.job(job)
        assert row is not None
        return job_answer(row, self.config)


def make_service(config: ServiceConfig, now: Callable[[], float] = time.time) -> Service:
    """Open the database, and put the parts of a server together; nothing runs yet.

    Raises:
        InputError: The database or the root of archives cannot be used.
    """
    engine = open_database(config.database, config.database_password_file)
    books = Books(engine, now)
    metrics = Metrics(books.queue, books.hours)
    tokens = Tokens(engine, now)
    limit = RateLimit(config.requests_per_s, config.burst, time.monotonic)
    return Service(
        config=config,
        tokens=tokens,
        ledger=Ledger(engine, now),
        books=books,
        access=Access(tokens, limit, config.netloc, now),
        metrics=metrics,
        objects=Objects(config.archives),
        runner=_runner(config, engine, now),
    )


def _runner(config: ServiceConfig, engine: sa.Engine, now: Callable[[], float]) -> Runner:
    shares = {team: section.share for team, section in config.teams.items()}
    leases = Leases(engine, now, config.lease_s, shares)
    return Runner(config, leases, _executor(config), Webhooks(engine, config.webhooks, now))


def _executor(config: ServiceConfig) -> Executor:
    section: Any = config.executor
    if isinstance(section, RaySection):
        from pipelines.service.executors.ray import RayExecutor  # imports ray, which takes seconds

        return RayExecutor(section.dashboard, section.slots)
    return LocalExecutor(section.slots)
