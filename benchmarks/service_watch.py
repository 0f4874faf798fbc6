"""Load on a service, and what is watched meanwhile: answers of /health, and jobs that wait for a server."""

from __future__ import annotations

import contextlib
import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import httpx
import numpy as np
import sqlalchemy as sa

from benchmarks.serving import Serving
from teacher_cache.sharing.client import ENDED

_ASK_S, _POLL_S, _PROBE_S, _READ_S = 15.0, 0.5, 0.2, 0.1
_FOLLOWED_S = 60.0
_LONGEST_LEASE_S = 600.0
_QUERY = """SELECT jobs.id, owner, lease_until FROM jobs JOIN label_sets ON label_sets.id = jobs.labels
WHERE state IN ('planning', 'queued', 'running')"""


class State:
    """What is faulty now.

    Attributes:
        servers: All servers.
        is_stopped: Set when users ask for nothing new.
        is_over: Set when the campaign is over.
    """

    def __init__(self, servers: Sequence[Serving]) -> None:
        self.servers = list(servers)
        self.is_stopped, self.is_over = threading.Event(), threading.Event()
        self._faulty: set[str] = set()
        self._begun = Counter[str]()

    @contextlib.contextmanager
    def server_fault(self, server: Serving) -> Iterator[None]:
        """Mark a server as killed or stopped."""
        with self._fault(server.url):
            yield

    def executor_fault(self, server: Serving) -> contextlib.AbstractContextManager[None]:
        """Mark the executor of a server as stopped."""
        return self._fault(f"{server.url} executor")

    def database_fault(self) -> contextlib.AbstractContextManager[None]:
        """Mark the database as faulty."""
        return self._fault("database")

    def clock_fault(self) -> contextlib.AbstractContextManager[None]:
        """Mark a clock as wrong."""
        return self._fault("clock")

    @contextlib.contextmanager
    def _fault(self, name: str) -> Iterator[None]:
        self._begun[name] += 1
        self._faulty.add(name)
        try:
            yield
        finally:
            self._faulty.discard(name)

    def runs(self, server: Serving) -> bool:
        """Return whether a server is neither killed nor stopped."""
        return server.url not in self._faulty

    def num_faults(self, server: Serving) -> int:
        """Return how often a server was killed or stopped."""
        return self._begun[server.url]

    def claims(self, server: Serving) -> bool:
        """Return whether a server can begin commands."""
        return self.runs(server) and f"{server.url} executor" not in self._faulty

    def may_claim(self) -> bool:
        """Return whether leases can be taken and read: database and clocks are right."""
        return not self._faulty & {"database", "clock"}


class Load:
    """Users who ask for labels, each a new one when the last is done.

    Attributes:
        accepted: Indices of the askers of each accepted job.
        refused: Number of requests that were not accepted, and sent again.
    """

    def __init__(self, state: State, tokens: Sequence[str], asks: Sequence[dict[str, Any]]) -> None:
        self._state, self._tokens, self._asks = state, tokens, asks
        self._lock, self._next, self._users = threading.Lock(), 0, 0
        # A client of its own for each call would make a TLS context each time: more work than the server's.
        self._client = httpx.Client(limits=httpx.Limits(max_keepalive_connections=0), timeout=_ASK_S)
        self.accepted: dict[str, set[int]] = {}
        self.refused = 0

    def stop(self) -> None:
        """Ask for nothing new."""
        self._state.is_stopped.set()

    def is_over(self) -> bool:
        """Return whether everything was asked for, and accepted."""
        return len(self.accepted) >= len(self._asks)

    def ask(self) -> None:
        """Be a user, until the load is stopped: ask for what is new, and once more for what another has."""
        with self._lock:
            user, self._users = self._users, self._users + 1
        while not self._state.is_stopped.is_set():
            with self._lock:
                number, self._next = self._next, self._next + 1
            if number >= len(self._asks):
                return
            for ask in {number, max(0, number - 3)}:
                job = self._accepted(self._asks[ask], user)
            if job is not None:
                self._follow(job, user)

    def read(self) -> None:
        """Look labels up, until the campaign is over."""
        rng = random.Random(0)
        while not self._state.is_over.wait(_READ_S):
            with contextlib.suppress(httpx.HTTPError):
                self._post("resolve", self._asks[rng.randrange(len(self._asks))], 0)

    def _accepted(self, ask: dict[str, Any], user: int) -> str | None:
        """Ask until the request is accepted, and return the job's id; None if the load is stopped."""
        while not self._state.is_stopped.is_set():
            with contextlib.suppress(httpx.HTTPError):
                answer = self._post("requests", ask, user)
                if answer.status_code == 202:
                    job = str(answer.json()["id"])
                    with self._lock:
                        self.accepted.setdefault(job, set()).add(user)
                    return job
            with self._lock:
                self.refused += 1
            time.sleep(0.2)
        return None

    def _follow(self, job: str, user: int) -> None:
        end_s = time.monotonic() + _FOLLOWED_S
        while time.monotonic() < end_s and not self._state.is_stopped.wait(_POLL_S):
            with contextlib.suppress(httpx.HTTPError):
                answer = self._client.get(f"{self._url()}/api/requests/{job}", headers=self._headers(user))
                if answer.status_code == 200 and answer.json()["state"] in ENDED:
                    return

    def _post(self, route: str, body: dict[str, Any], user: int) -> httpx.Response:
        return self._client.post(f"{self._url()}/api/{route}", json=body, headers=self._headers(user))

    def _headers(self, user: int) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._tokens[user]}"}

    def _url(self) -> str:
        running = [server for server in self._state.servers if self._state.runs(server)]
        return random.choice(running or self._state.servers).url


class Health:
    """Times of /health of every server that runs."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._times_s: list[float] = []

    def probes(self) -> list[Callable[[], None]]:
        """Return a function for each server that asks until the campaign is over."""
        return [lambda server=server: self._probe(server) for server in self._state.servers]  # type: ignore[misc]

    def figures(self) -> dict[str, Any]:
        """Return the number of answers, and how long they took."""
        times_ms = 1000 * np.array(self._times_s or [0.0])
        return {
            "health_answers": len(self._times_s),
            "health_median_ms": round(float(np.median(times_ms)), 1),
            "health_p99_ms": round(float(np.quantile(times_ms, 0.99)), 1),
            "health_slowest_ms": round(float(times_ms.max()), 1),
        }

    def slowest_s(self) -> float:
        """Return the longest time of an answer until now, in seconds."""
        return max(self._times_s, default=0.0)

    def _probe(self, server: Serving) -> None:
        while not self._state.is_over.wait(_PROBE_S):
            if not self._state.runs(server):
                continue
            faults, begun_s = self._state.num_faults(server), time.monotonic()
            is_well = _is_healthy(server.port)
            took_s = time.monotonic() - begun_s
            if self._state.num_faults(server) == faults:  # else it was killed or stopped meanwhile
                self._times_s.append(took_s if is_well else float("inf"))


def _is_healthy(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


class Waits:
    """How long jobs wait that a server with a free slot could take.

    Attributes:
        longest_s: Longest such wait, in seconds.
        longest_of: Its end, and the leases then held and servers that could claim.
    """

    def __init__(self, state: State, engine: sa.Engine) -> None:
        self._state, self._engine = state, engine
        self.longest_s, self.longest_of = 0.0, ""

    def watch(self) -> None:
        """Look until the campaign is over."""
        waits_s: dict[str, float] = {}
        looked_s = time.monotonic()
        while not self._state.is_over.wait(_PROBE_S):
            passed_s, looked_s = time.monotonic() - looked_s, time.monotonic()
            waiting, circumstances = self._waiting()
            waits_s = {job: waits_s.get(job, -passed_s) + passed_s for job in waiting}
            longest_s = max(waits_s.values(), default=0.0)
            if longest_s > self.longest_s:
                self.longest_s = longest_s
                self.longest_of = f"{time.strftime('%H:%M:%S')}: {circumstances}"

    def _waiting(self) -> tuple[list[str], str]:
        """Return the jobs that wait although a server could take one, and the circumstances."""
        if not self._state.may_claim():
            return [], ""
        try:
            with self._engine.connect() as connection:
                rows = connection.execute(sa.text(_QUERY)).all()
        except sa.exc.SQLAlchemyError:
            return [], ""
        now = time.time()
        held = {owner for _, owner, until in rows if owner and now <= until <= now + _LONGEST_LEASE_S}
        running = sum(self._state.claims(server) for server in self._state.servers)
        if len(held) >= running:
            return [], ""
        ports = [server.port for server in self._state.servers if self._state.claims(server)]
        circumstances = f"{len(rows)} jobs, leases {sorted(held)}, servers {ports}"
        return [job for job, owner, _ in rows if owner not in held], circumstances
