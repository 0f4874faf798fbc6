"""Client of a label service: ask for labels by name, wait for them, and get a link."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, Literal

import httpx

from teacher_cache.errors import DeniedError, InputError, TeacherCacheError, UnreachableError
from teacher_cache.storage.service import SCHEME, SERVICE_VARIABLE, TOKEN_VARIABLE, service_place

Job = dict[str, Any]
"""Job as the service's API answers it: id, state, views, archive, plan, progress, error, link."""
OVER = ("done", "failed", "cancelled")
_TIMEOUT_S = 30.0
_TRIES = 5
_POLL_S = 1.0
_SAID_EVERY_S = 10.0


def _say_nothing(_: Job) -> None:
    pass


class Client:
    """Client of a label service.

        client = Client("https://labels.example.org", token)
        job = client.request(data="imagenet", teacher="regnety", views="0:8")
        labels = client.wait(job["id"])["link"]["labels"]

    Args:
        url: URL of the service; by default that of the variable TEACHER_CACHE_SERVICE.
        token: Token of the user; by default that of the variable TEACHER_CACHE_TOKEN.

    Raises:
        InputError: No service or token is named.
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
        """Return what is there of some labels: state, views, missing, link; nothing is begun.

        Args:
            **asked: Labels by name: data, teacher, recipe, views, img_size, topk, values, affinity.
        """
        return self._ask("POST", "/api/resolve", asked)

    def request(self, **asked: Any) -> Job:
        """Ask for labels, and return their job; the same labels are one job for all users.

        Args:
            **asked: Labels by name, as for `resolve`; follow and webhook too.
        """
        return self._ask("POST", "/api/requests", asked)

    def requests(self, limit: int = 100) -> list[Job]:
        """Return the newest jobs, at most `limit`."""
        return self._ask("GET", f"/api/requests?limit={limit}")

    def show(self, job: str) -> Job:
        """Return a job."""
        return self._ask("GET", f"/api/requests/{job}")

    def act(self, action: Literal["approve", "cancel", "retry"], job: str) -> Job:
        """Approve, cancel or retry a job."""
        return self._ask("POST", f"/api/requests/{job}/{action}")

    def wait(self, job: str, say: Callable[[Job], object] = _say_nothing) -> Job:
        """Wait until a job is over, and return it.

        Args:
            job: Id of the job.
            say: Function that is told the job at every change of its state, and now and then.
        """
        state, said_s = "", 0.0
        while True:
            found = self.show(job)
            now_s = time.monotonic()
            if found["state"] != state or now_s - said_s > _SAID_EVERY_S:
                state, said_s = found["state"], now_s
                say(found)
            if state in OVER:
                return found
            time.sleep(_POLL_S)

    def labels(self, url: str, *, follow: bool, say: Callable[[Job], object] = _say_nothing) -> str:
        """Return the URL of the labels that a request's URL stands for, once they can be read.

        Args:
            url: URL service://HOST/requests/ID; any other URL is returned unchanged.
            follow: Whether labels that are still being made can be read.
            say: Function that is told the job now and then.

        Raises:
            TeacherCacheError: The job failed or was cancelled.
        """
        job = request_of(url)
        if job is None:
            return url
        self._place.web_url(url)  # raises where it is another service's
        found = self.show(job)
        while not (found["link"] and (follow or found["state"] == "done")):
            if found["state"] in OVER:
                break
            say(found)
            time.sleep(_POLL_S)
            found = self.show(job)
        if not found["link"]:
            raise TeacherCacheError(
                f"request {job} is {found['state']}: {found['error'] or 'it was cancelled'}",
                "There are no labels to read.",
                f"teacher-cache request retry --id {job}",
            )
        return found["link"]["labels"]

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
        if answer.is_success:
            return answer.json()
        detail = answer.json().get("detail") if "json" in answer.headers.get("content-type", "") else None
        if answer.status_code in (401, 403):
            raise DeniedError(
                f"{self._place.url}: {detail or 'access is denied'}",
                "Nothing was asked.",
                "check TEACHER_CACHE_TOKEN, or ask for a token with the scope",
            )
        if isinstance(detail, dict):
            raise InputError(detail["error"], detail["consequence"], detail["remedy"])
        raise InputError(
            f"{self._place.url} refuses the request: {detail or answer.status_code}",
            "Nothing was begun.",
            "correct it",
        )


def request_of(url: str) -> str | None:
    """Return the id in a URL service://HOST/requests/ID; None for any other URL."""
    if not url.startswith(SCHEME):
        return None
    _, _, path = url.removeprefix(SCHEME).partition("/")
    kind, _, job = path.strip("/").partition("/")
    return job if kind == "requests" else None
