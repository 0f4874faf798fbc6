"""Client of a label service: ask for labels by name, wait for them, and get a link."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, NoReturn

import httpx

from teacher_cache.errors import DeniedError, InputError, TeacherCacheError, UnreachableError
from teacher_cache.storage.service import SCHEME, SERVICE_VARIABLE, TOKEN_VARIABLE, service_place

Job = dict[str, Any]
"""Job as the service's API answers it: id, state, views, archive, plan, progress, error, link."""
ENDED = ("done", "failed", "cancelled")
"""States in which the job of a request has ended."""
_TIMEOUT_S = 30.0
_TRIES = 5
_POLL_S = 1.0
_SAID_EVERY_S = 10.0
_AWAY_S = 600.0
"""Seconds to keep waiting for a service that does not answer, such as during a restart."""
_ID = re.compile(r"[0-9a-f]{24}")


def _say_nothing(_: str) -> None:
    pass


class Client:
    """Client of a label service.

        client = Client("https://labels.example.org", token)
        job = client.request(data="imagenet", teacher="regnety", views="0:8")
        labels = client.wait(job["id"])["link"]["labels"]

    Args:
        url: URL of the service; by default that of the variable TEACHER_CACHE_SERVICE.
        token: Token of the user at `url`; without `url`, the variable TEACHER_CACHE_TOKEN is used.

    Raises:
        InputError: The URL or the token is missing or malformed.
    """

    def __init__(self, url: str | None = None, token: str | None = None) -> None:
        environment = dict(os.environ)
        if url is not None:
            environment[SERVICE_VARIABLE] = url
            environment[TOKEN_VARIABLE] = token or ""  # the environment's token is sent to no other service
        self._place = service_place(environment)
        self._http = httpx.Client(base_url=self._place.url, headers=self._place.headers, timeout=_TIMEOUT_S)

    def offer(self) -> dict[str, Any]:
        """Return the names of datasets, teachers and recipes that can be asked for."""
        return self._ask("GET", "/api/offer")

    def resolve(self, **asked: Any) -> dict[str, Any]:
        """Return whether some labels exist already, as state, views, missing and link; no job is started.

        Args:
            **asked: Labels to look up: data, teacher, recipe, views, img_size, topk, values, affinity.
        """
        return self._ask("POST", "/api/resolve", asked)

    def request(self, **asked: Any) -> Job:
        """Request labels, and return the job that makes them; all users share one job for the same labels.

        Args:
            **asked: Labels to make, described as for `resolve`, and optionally follow and webhook.
        """
        return self._ask("POST", "/api/requests", asked)

    def requests(self, limit: int = 100) -> list[Job]:
        """Return the newest jobs, at most `limit`."""
        return self._ask("GET", f"/api/requests?limit={limit}")

    def show(self, job: str) -> Job:
        """Return a job."""
        return self._ask("GET", f"/api/requests/{_checked(job)}")

    def act(self, action: Literal["approve", "cancel", "retry"], job: str) -> Job:
        """Approve, cancel or retry a job."""
        return self._ask("POST", f"/api/requests/{_checked(job)}/{action}")

    def wait(self, job: str, say: Callable[[str], object] = _say_nothing) -> Job:
        """Wait until a job has ended, and return it; an unreachable service is retried for ten minutes.

        Args:
            job: Id of the job.
            say: Function called with a line of text when the job's state changes, and every ten seconds.

        Raises:
            UnreachableError: The service has not answered for ten minutes.
        """
        return self._until(lambda found: found["state"] in ENDED, job, say)

    def labels(self, url: str, *, follow: bool, say: Callable[[str], object] = _say_nothing) -> str:
        """Return the URL of the labels that a request's URL stands for, once they can be read.

        Args:
            url: URL service://HOST/requests/ID; any other URL is returned unchanged.
            follow: Whether to return as soon as labels that are still being made can be read.
            say: Function called with a line of text when the job's state changes, and every ten seconds.

        Raises:
            TeacherCacheError: The job failed or was cancelled.
        """
        job = request_of(url)
        if job is None:
            return url
        self._place.web_url(url)  # raises where it is another service's
        found = self._until(lambda found: found["state"] in ENDED or (follow and found["link"]), job, say)
        if not found["link"]:
            raise TeacherCacheError(
                f"request {job} is {found['state']}: {found['error'] or 'it was cancelled'}",
                "There are no labels to read.",
                f"retry it: teacher-cache request retry --id {job}",
            )
        return found["link"]["labels"]

    def _until(self, is_met: Callable[[Job], object], job: str, say: Callable[[str], object]) -> Job:
        state, said_s, heard_s = "", 0.0, time.monotonic()
        while True:
            found, now_s = None, time.monotonic()
            try:
                found = self.show(job)
                heard_s, now, line = now_s, found["state"], line_of(found)
            except UnreachableError as error:
                if now_s - heard_s > _AWAY_S:
                    raise
                now, line = "away", f"{job}: {error.value}; it is asked again"
            if now != state or now_s - said_s > _SAID_EVERY_S:
                state, said_s = now, now_s
                say(line)
            if found is not None and is_met(found):
                return found
            time.sleep(_POLL_S)

    def _ask(self, method: str, path: str, asked: Any = None) -> Any:
        """Return the answer of the service. Raises InputError, DeniedError, UnreachableError."""
        for number in range(_TRIES):
            try:
                answer = self._http.request(method, path, json=asked)
                if answer.status_code < 500 and answer.status_code != 429:
                    break
                reason = f"it answers {answer.status_code}"
            except httpx.HTTPError as error:
                reason = f"{type(error).__name__}: {error}"
            time.sleep(min(0.2 * 2**number, 5.0))
        else:
            raise UnreachableError(
                f"{self._place.url} cannot be reached: {reason}",
                f"It was tried {_TRIES} times. A request that was accepted is not lost.",
                "run the same command again when the service answers",
            )
        try:
            found = answer.json()
        except ValueError:
            found = None
        if answer.is_success and found is not None:
            return found
        self._refuse(
            answer.status_code, found.get("detail") if isinstance(found, dict) else None, path, asked
        )

    def _refuse(self, status: int, detail: Any, path: str, asked: Mapping[str, Any] | None) -> NoReturn:
        """Raise the exception for an HTTP error response."""
        url = self._place.url
        if status in (401, 403):
            raise DeniedError(
                f"{url}: {detail or 'access is denied'}",
                "The service refused the request.",
                "check TEACHER_CACHE_TOKEN" if status == 401 else "ask an administrator of the service",
            )
        if isinstance(detail, dict):
            raise InputError(detail["error"], detail["consequence"], detail["remedy"])
        if isinstance(detail, list):
            wrong = [(str(each["loc"][-1]), each["msg"]) for each in detail]
            raise InputError(
                "; ".join(f"{name} {(asked or {}).get(name, '')!r}: {text}" for name, text in wrong),
                "No job was started.",
                f"correct {', '.join(name for name, _ in wrong)}",
            )
        if detail is None or status == 405 or (status, detail) == (404, "Not Found"):
            raise InputError(
                f"{url} answers {status} to {path}, but not as a label service",
                "The request reached no label service.",
                f"set {SERVICE_VARIABLE} to the base URL of the service, without the path of a page",
            )
        raise InputError(
            f"{path}: {detail}", "No job was started.", "list the requests: teacher-cache request list"
        )


def line_of(job: Job) -> str:
    """Return a job's id, state, views, archive and progress as one line of text."""
    progress, plan = job["progress"] or {}, job["plan"] or {}
    done = f", {progress['units_done']:,} of {progress['units']:,} units" if progress.get("units") else ""
    hours = f", planned {plan['gpu_hours']:,.3g} GPU hours" if "gpu_hours" in plan else ""
    more = "; it waits for approval" if job["state"] == "waiting" else ""
    return f"{job['id']} {job['state']}: views {job['views']} of {job['archive']}{done}{hours}{more}"


def _checked(job: str) -> str:
    """Return a job's id. Raises InputError if it is malformed, because it becomes part of a URL."""
    if not _ID.fullmatch(job):
        raise InputError(
            f"request {job!r} is not an id",
            "A request's id consists of 24 digits and letters from a to f.",
            "list the ids: teacher-cache request list",
        )
    return job


def request_of(url: str) -> str | None:
    """Return the id in a URL service://HOST/requests/ID; None for any other URL."""
    if not url.startswith(SCHEME):
        return None
    _, _, path = url.removeprefix(SCHEME).partition("/")
    kind, _, job = path.strip("/").partition("/")
    return job if kind == "requests" else None
