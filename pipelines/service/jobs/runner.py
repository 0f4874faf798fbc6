"""Runner of jobs: leases one for each free slot, runs it on the executor, and settles it."""

from __future__ import annotations

import json
import logging
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from pipelines.service.config import ServiceConfig
from pipelines.service.database.leases import PLANNING_HOURS, Leased, Leases
from pipelines.service.database.records import State
from pipelines.service.jobs.executor import Execution, Executor, Verb
from pipelines.service.jobs.progress import read_progress, run_dir_of
from pipelines.service.jobs.webhooks import Webhooks
from teacher_cache.archive.format.manifest import MANIFEST_FILE
from teacher_cache.errors import TeacherCacheError
from teacher_cache.exact.canonical import sha256_hex
from teacher_cache.program.progress import silent
from teacher_cache.sharing.catalog import put_catalog
from teacher_cache.storage.store import Store

_LOG = logging.getLogger(__name__)
_POLL_S, _SWEEP_EVERY_S = 0.25, 10.0
_CATALOG_EVERY_S, _TOLD_EVERY_S = 2.0, 1.0
_READ_SHARE = 20
"""Smallest time between two reads of the progress, as a multiple of the duration of a read."""
_OWN_CODES = (1, 2)
"""Exit codes of a command whose work failed; after any other exit code but 0, its job is retried."""

_SIGNALS = ("closing", "cancelled", "gives way")
"""Reasons to stop a command that its job has not caused."""


class Runner:
    """Runner of a server, in threads."""

    def __init__(self, config: ServiceConfig, leases: Leases, executor: Executor, webhooks: Webhooks) -> None:
        self._config, self._leases, self._executor, self._webhooks = config, leases, executor, webhooks
        self._name = f"{socket.gethostname()[:32]}-{secrets.token_hex(4)}"
        self._claims, self._swept_s = 0, float("-inf")
        self._at_work: set[threading.Thread] = set()
        self._is_closing = threading.Event()
        self._loop = threading.Thread(target=self._run, name="runner", daemon=True)
        self._is_catalog_old = threading.Event()
        self._catalog = threading.Thread(target=self._keep_catalog, name="catalog", daemon=True)
        self._telling = threading.Thread(target=self._keep_telling, name="webhooks", daemon=True)

    @property
    def is_alive(self) -> bool:
        """Whether the runner is polling for jobs."""
        return self._loop.is_alive()

    def start(self) -> None:
        """Start polling for jobs."""
        self._loop.start()
        self._catalog.start()
        self._telling.start()

    def close(self) -> None:
        """Stop the jobs of this server, which other servers then continue."""
        self._is_closing.set()
        self._loop.join()
        for thread in list(self._at_work):
            thread.join()

    def _run(self) -> None:
        while not self._is_closing.is_set():
            try:
                self._look()
            except (sa.exc.SQLAlchemyError, TeacherCacheError) as error:  # away for a while
                _LOG.warning("the runner goes on after an error: %s", error)
            except Exception:
                _LOG.exception("the runner met an error, and goes on")
            self._is_closing.wait(_POLL_S)

    def _look(self) -> None:
        self._at_work = {thread for thread in self._at_work if thread.is_alive()}
        if time.monotonic() - self._swept_s >= _SWEEP_EVERY_S:
            self._swept_s = time.monotonic()
            self._leases.end_expired()
        while len(self._at_work) < self._executor.slots:
            self._executor.prepare()
            self._claims += 1
            leased = self._leases.claim(f"{self._name}-{self._claims}")
            if leased is None:
                break
            thread = threading.Thread(target=self._do, args=(leased,), name=f"job-{leased.job.id}")
            self._at_work.add(thread)
            thread.start()
        else:
            self._leases.ask_to_give_way(self._config.give_way_after_s)

    def _keep_catalog(self) -> None:
        while not self._is_closing.wait(_CATALOG_EVERY_S):
            if self._is_catalog_old.is_set():
                self._is_catalog_old.clear()
                try:
                    put_catalog(Store(self._config.archives), silent)
                except TeacherCacheError as error:
                    _LOG.warning("the catalog is not made: %s", error)

    def _keep_telling(self) -> None:
        while not self._is_closing.wait(_TOLD_EVERY_S):
            try:
                self._webhooks.tell()
            except sa.exc.SQLAlchemyError as error:
                _LOG.warning("webhooks are told later: %s", error)

    def _do(self, leased: Leased) -> None:
        try:
            self._settle(leased)
        except sa.exc.SQLAlchemyError as error:  # the lease ends, and the job is taken up again
            _LOG.warning("job %s is settled later: %s", leased.job.id, error)

    def _settle(self, leased: Leased) -> None:
        try:
            if leased.job.is_cancelled:
                self._leases.settle(leased, "cancelled")
            elif leased.job.state == "planning":
                self._plan(leased)
            else:
                self._extract(leased)
        except TeacherCacheError as error:
            self._leases.settle(leased, "failed", error=str(error))
        except sa.exc.SQLAlchemyError:
            raise
        except Exception as error:
            _LOG.exception("job %s met an error", leased.job.id)
            if leased.job.kills >= self._config.max_attempts:
                self._leases.settle(leased, "failed", error=f"{type(error).__name__}: {error}")

    def _plan(self, leased: Leased) -> None:
        config, begun_s = self._config, time.monotonic()
        execution = self._executor.begin("plan", self._flags(leased, "plan"))
        if not self._watch(leased, execution, config.plan_timeout_s, "plan_timeout_s"):
            return
        found = _last_json(execution.output())
        hours = (found or {}).get("gpu_hours") or 0.0
        label_bytes = (found or {}).get("label_bytes") or 0
        if found is not None and config.price_per_gpu_hour is not None:
            found["cost"] = hours * config.price_per_gpu_hour
        is_costly = hours > config.approval_gpu_hours or label_bytes > config.approval_label_bytes
        spent_hours = (time.monotonic() - begun_s) / 3600
        self._leases.plan(leased, found, hours, is_costly=is_costly, spent_hours=spent_hours)

    def _extract(self, leased: Leased) -> None:
        archive = self._archive(leased)
        execution = self._executor.begin("extract", self._flags(leased, "extract"))
        if not self._watch(leased, execution, self._config.stalled_after_s, "stalled_after_s"):
            return
        progress = self._progress(leased)
        progress["manifest_sha256"] = sha256_hex(archive.get(MANIFEST_FILE))
        self._leases.settle(leased, "done", error=None, progress=progress, gpu_hours=_hours(leased, progress))
        self._is_catalog_old.set()

    def _watch(self, leased: Leased, execution: Execution, limit_s: float, limit: str) -> bool:
        """Wait for a command, and return whether it succeeded; if not, its job is settled or its lease lost.

        A store, cluster or database that does not answer is retried while the lease lasts. A command that is
        asked to stop and does not is killed after `stop_grace_s`.

        Args:
            limit_s: Seconds without progress after which the command is stopped.
            limit: Name of the limit in the configuration.
        """
        job, ending, stopped_s = leased.job.id, None, float("inf")
        begun_s = renewed_s = read_s = moved_s = time.monotonic()
        progress: dict[str, Any] | None = None
        while True:
            try:
                if execution.exit_code() is not None:
                    break
                now_s = time.monotonic()
                if ending is None and self._is_closing.is_set():
                    ending = "closing"
                elif ending is None and now_s - moved_s > limit_s:
                    ending = f"nothing was done for {limit_s:,.0f} s, the limit {limit} of this service"
                if ending is not None and stopped_s == float("inf"):
                    stopped_s = now_s
                    execution.stop()
                if now_s - stopped_s > self._config.stop_grace_s:
                    _LOG.warning("job %s does not stop (%s), and is killed", job, ending)
                    stopped_s = now_s
                    execution.end()
                if now_s - renewed_s >= min(1.0, self._config.lease_s / 4):
                    renewed_s = now_s
                    signals = self._leases.renew(leased, progress)
                    if signals is None:
                        _LOG.warning("the lease of job %s was lost, and another server has it", job)
                        execution.kill()
                        return False
                    if ending is None and (signals.is_cancelled or signals.gives_way):
                        ending = "cancelled" if signals.is_cancelled else "gives way"
                if leased.job.state == "running" and now_s >= read_s:
                    before, progress = progress, self._progress(leased)
                    if before is None or progress["steps"] != before["steps"]:
                        moved_s = now_s
                    read_s = now_s + max(1.0, _READ_SHARE * (time.monotonic() - now_s))
            except (TeacherCacheError, sa.exc.SQLAlchemyError) as error:
                _LOG.warning("job %s is watched with trouble: %s", job, error)
            time.sleep(_POLL_S / 5)
        execution.kill()  # what a killed process left behind
        return self._is_done(leased, execution, ending, time.monotonic() - begun_s)

    def _progress(self, leased: Leased) -> dict[str, Any]:
        job = leased.job
        return read_progress(self._archive(leased), job.id, job.attempt, job.views)

    def _is_done(self, leased: Leased, execution: Execution, ending: str | None, spent_s: float) -> bool:
        """Return whether a command succeeded; settle its job if it did not.

        Args:
            spent_s: Seconds that the command ran; those of a plan are charged.
        """
        code, job = execution.exit_code(), leased.job
        if code == 0:
            return True
        progress = self._progress(leased)
        hours = _hours(leased, progress) + (spent_s / 3600 if job.state == "planning" else 0.0)
        found: dict[str, Any] = {"progress": progress, "gpu_hours": hours}
        again: State = "planning" if job.state == "planning" else "queued"
        if ending in _SIGNALS:
            state: State = "cancelled" if ending == "cancelled" else again
            self._leases.settle(leased, state, gives_way=False, **found)
        elif ending is not None:
            self._leases.settle(leased, "failed", error=ending, **found)
        elif code in _OWN_CODES:
            self._leases.settle(leased, "failed", error=execution.complaint(), **found)
        elif job.kills + 1 >= self._config.max_attempts:
            text = f"its process was killed {job.kills + 1} times, the last time with code {code}"
            self._leases.settle(leased, "failed", error=text, **found)
        else:
            _LOG.warning("the process of job %s was killed (code %s); it is tried again", job.id, code)
            self._leases.settle(leased, again, kills=job.kills + 1, **found)
        return False

    def _archive(self, leased: Leased) -> Store:
        return Store(f"{self._config.archives}/{leased.job.archive}")

    def _flags(self, leased: Leased, verb: Verb) -> dict[str, Any]:
        job, archive = leased.job, self._archive(leased)
        flags = {
            **leased.flags,
            "out": archive.url,
            "views": f"{job.first_view}:{job.stop_view}",
            "run_dir": run_dir_of(archive, job.id, job.attempt),
        }
        if job.is_followed and verb == "extract":
            flags["followed"] = True
        return flags


def _hours(leased: Leased, progress: Mapping[str, Any]) -> float:
    """Return the GPU hours of a job: those of its runs' events, and of its plan."""
    planned = (leased.job.plan or {}).get(PLANNING_HOURS, 0.0)
    return float(max(progress["gpu_hours"] + planned, leased.job.gpu_hours))


def _last_json(text: str) -> dict[str, Any] | None:
    """Return the last line of a command's output as JSON."""
    lines = [line for line in text.splitlines() if line.startswith(("{", "null"))]
    if not lines:
        raise TeacherCacheError(
            "the plan printed no estimate", "The job is not run, as its cost is unknown.", "retry the job"
        )
    return json.loads(lines[-1])
