"""Webhooks: signed messages to configured hosts when a job has ended."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import sqlalchemy as sa

from pipelines.service.config import WebhookSection
from pipelines.service.database.records import ENDED
from pipelines.service.database.tables import JOBS, LABEL_SETS, REQUESTS
from teacher_cache.errors import InputError

_LOG = logging.getLogger(__name__)
_TIMEOUT_S = 5.0
_AT_ONCE = 8
_TRIES, _AGAIN_S = 6, 5.0
"""Times that a message is sent at most; the next one follows after 5, 25, 125, ... seconds."""
SIGNATURE_HEADER = "X-Teacher-Cache-Signature"


def check_webhook(url: str, section: WebhookSection | None) -> None:
    """Refuse a webhook on a host that the configuration does not name. Raises InputError."""
    try:
        parts = urlsplit(url)
        is_known = section is not None and parts.scheme in ("http", "https") and parts.netloc in section.hosts
    except ValueError:
        is_known = False
    if not is_known:
        raise InputError(
            f"webhook {url[:200]!r} is not allowed",
            "Only hosts in the service's configuration can be notified.",
            f"use a URL on {', '.join(section.hosts)}" if section else "send the request without a webhook",
        )


class Webhooks:
    """Sender of messages about jobs that have ended.

    A message is sent before it is marked as sent: after a crash, or from two servers, it may come twice.

    Args:
        section: Hosts and the key; None for no webhooks.
    """

    def __init__(self, engine: sa.Engine, section: WebhookSection | None, now: Callable[[], float]) -> None:
        self._engine, self._now = engine, now
        self._secret = None if section is None else Path(section.secret_file).read_bytes().strip()
        self._failed: dict[int, tuple[int, float]] = {}

    def tell(self) -> None:
        """Send a message about each job that has ended; one that fails is tried again, later each time."""
        if self._secret is None:
            return
        now = self._now()
        query = (
            sa.select(
                REQUESTS.c.id, REQUESTS.c.webhook, JOBS.c.id.label("job"), JOBS.c.state, LABEL_SETS.c.archive
            )
            .join(JOBS, JOBS.c.id == REQUESTS.c.job)
            .join(LABEL_SETS)
            .where(
                REQUESTS.c.webhook.is_not(None),
                REQUESTS.c.is_told.is_(False),
                JOBS.c.state.in_(ENDED),
                REQUESTS.c.id.not_in([one for one, (_, next_s) in self._failed.items() if next_s > now]),
            )
            .limit(_AT_ONCE)
        )
        with self._engine.connect().execution_options(reads_only=True) as connection:
            rows = connection.execute(query).mappings().all()
        for row in rows:
            number, tries = row["id"], self._failed.pop(row["id"], (0, 0.0))[0] + 1
            message = {name: row[name] for name in ("job", "state", "archive")}
            if not self._is_taken(row["webhook"], message) and tries < _TRIES:
                self._failed[number] = (tries, now + _AGAIN_S**tries)
                continue
            with self._engine.begin() as connection:
                told = sa.update(REQUESTS).where(REQUESTS.c.id == number)
                connection.execute(told.values(is_told=True))

    def _is_taken(self, url: str, message: dict[str, str]) -> bool:
        """Post a message, and return whether the host took it."""
        assert self._secret is not None
        body = json.dumps({**message, "time": self._now()}).encode()
        digest = hmac.new(self._secret, body, hashlib.sha256).hexdigest()
        headers = {"Content-Type": "application/json", SIGNATURE_HEADER: f"sha256={digest}"}
        try:
            with httpx.stream("POST", url, content=body, headers=headers, timeout=_TIMEOUT_S) as answer:
                if answer.status_code < 500:  # the answer is not read
                    return True
                error: Exception | str = f"status {answer.status_code}"
        except Exception as caught:  # whatever a host or its name does, others are told
            error = type(caught).__name__
        _LOG.warning("a webhook on %s was not told: %s", urlsplit(url).netloc, error)
        return False
