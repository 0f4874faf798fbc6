"""Hostile requests on every route of a running service, with every scope; answers are counted by status."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import http.client
import json
import multiprocessing
import random
import statistics
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Any, Literal

import httpx
import psutil

from benchmarks.attack_mutations import HOSTILE
from benchmarks.serving import Serving, untrained_service

_SCOPES: dict[str, tuple[Literal["read", "request", "approve", "admin"], ...]] = {
    "read": ("read",),
    "request": ("read", "request"),
    "approve": ("read", "request", "approve"),
    "admin": ("read", "request", "approve", "admin"),
}
_PAGES = (
    *("GET /", "GET /requests", "POST /requests", "POST /login", "POST /logout", "GET /pages/{name}"),
    *("GET /requests/{job}", "POST /requests/{job}/{action}", "GET /explorer/small/{name}/{rest}"),
)
_MAX_BYTES, _PATIENCE_S = 2**30, 120.0
_LONGEST, _BEGIN_S = 8192, 3.0


@dataclasses.dataclass
class RequestsResult:
    """Requests by status, how /health took a flood of bodies, and what must not have happened."""

    statuses: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    failures: list[str] = dataclasses.field(default_factory=list)
    peak_bytes: int = 0
    flood: dict[str, float] = dataclasses.field(default_factory=dict)


def attack_requests(data: str, folder: Path, per_route: int, seed: int) -> RequestsResult:
    """Send `per_route` hostile requests to each route with each kind of token."""
    rng, result = random.Random(seed), RequestsResult()
    serving = untrained_service(folder, "small", data, requests_per_s=1e6, burst=10**6, plan_timeout_s=20.0)
    tokens = {name: serving.new_token(name, "vision", scopes) for name, scopes in _SCOPES.items()}
    serving.start()
    try:
        with httpx.Client(base_url=serving.url, timeout=60) as client:
            own = {"Authorization": f"Bearer {tokens['admin']}"}
            ask = {"data": "small", "teacher": "regnety", "img_size": 32, "topk": 1}
            job = client.post("/api/requests", json=ask, headers=own).json()["id"]
            _wait(client, job, own)
            document = client.get("/openapi.json", headers=own).json()
            routes = [f"{m.upper()} {path}" for path, ways in document["paths"].items() for m in ways]
            users = {"none": "", "garbage": "tc_x", **tokens}
            secret = (str(folder), *tokens.values())
            for route in (*routes, *_PAGES):
                for user, token in users.items():
                    for _ in range(per_route):
                        _send(client, route, user, token, job, rng, secret, result)
            result.flood = flood(serving)
            if client.get("/health").status_code != 200:
                result.failures.append("the service is not healthy at the end")
    finally:
        if serving.process is not None:
            result.peak_bytes = psutil.Process(serving.process.pid).memory_info().rss
        serving.kill()
    if result.peak_bytes > _MAX_BYTES:
        result.failures.append(f"the service has {result.peak_bytes:,} bytes")
    log = serving.log.read_text(errors="replace")
    if "Traceback" in log:
        result.failures.append(f"a traceback in the log: {log[log.index('Traceback') :][:1500]}")
    return result


def flood(serving: Serving, clients: int = 24, seconds: float = 10.0) -> dict[str, float]:
    """Send bodies of 4 MiB without a token from many clients, and return how long /health takes, in ms."""
    context, times_ms = multiprocessing.get_context("spawn"), list[float]()
    sender = context.Process(target=_send_bodies, args=(serving.url, clients, seconds + _BEGIN_S))
    sender.start()  # another process: its threads must not slow the clock of this one
    time.sleep(_BEGIN_S)
    end_s = time.monotonic() + seconds
    with httpx.Client(base_url=serving.url, timeout=60) as client:
        while time.monotonic() < end_s:
            begun_s = time.perf_counter()
            client.get("/health").raise_for_status()
            times_ms.append(1000 * (time.perf_counter() - begun_s))
            time.sleep(0.01)
    sender.join()
    cuts_ms = statistics.quantiles(times_ms, n=100)
    return {
        "health_p50_ms": round(cuts_ms[49], 1),
        "health_p99_ms": round(cuts_ms[98], 1),
        "asked": len(times_ms),
    }


def _send_bodies(url: str, clients: int, seconds: float) -> None:
    end_s, body = time.monotonic() + seconds, json.dumps([[1, 2]] * 450_000).encode()

    def send() -> None:
        while time.monotonic() < end_s:
            connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=30)
            with contextlib.suppress(OSError, http.client.HTTPException):  # it closes before all is sent
                connection.request("PUT", "/archives/small/x.filling/students/a.json", body)
                connection.getresponse().read()
            connection.close()

    threads = [threading.Thread(target=send, daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _wait(client: httpx.Client, job: str, headers: dict[str, str]) -> None:
    end_s = time.monotonic() + _PATIENCE_S
    while client.get(f"/api/requests/{job}", headers=headers).json()["state"] != "done":
        if time.monotonic() > end_s:
            raise RuntimeError("the first request of the campaign was not done")
        time.sleep(0.2)


def _send(
    client: httpx.Client,
    route: str,
    user: str,
    token: str,
    job: str,
    rng: random.Random,
    secret: tuple[str, ...],
    result: RequestsResult,
) -> None:
    method, path = route.split(" ", 1)
    values = {"job": rng.choice([job, _text(rng), "0" * 24]), "token": rng.choice([_text(rng), "0" * 16])}
    values |= {"name": _text(rng), "action": rng.choice(["approve", "cancel", "retry", _text(rng)])}
    values |= {"rest": rng.choice(["index.html", _text(rng)])}
    target = path.format(**{name: urllib.parse.quote(value, safe="/.~") for name, value in values.items()})
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if rng.random() < 0.2 and token:
        headers = {"Cookie": f"teacher_cache_token={token}"}
    if rng.random() < 0.3:
        headers |= {
            rng.choice(["Range", "Origin", "Accept", "X-Forwarded-For", "Content-Type"]): _header(rng)
        }
    arguments: dict[str, Any] = {"headers": headers}
    if rng.random() < 0.3:
        arguments["params"] = {rng.choice(["limit", "state", "x"]): _text(rng)}
    if method in ("POST", "PUT"):
        arguments["content"] = _body(rng)
        headers.setdefault(
            "Content-Type", rng.choice(["application/json", "application/x-www-form-urlencoded"])
        )
    try:
        with client.stream(method, target, **arguments) as answer:
            is_stream = answer.headers.get("content-type", "").startswith("text/event-stream")
            text = "" if is_stream else answer.read().decode(errors="replace")
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        result.statuses[f"{user}: not sent or cut off ({type(error).__name__})"] += 1
        return
    result.statuses[f"{user}: {answer.status_code}"] += 1
    what = f"{route} as {user}, {target[:120]}: {answer.status_code}"
    if answer.status_code >= 500 and answer.status_code != 503:
        result.failures.append(what)
    if user in ("none", "garbage") and answer.status_code < 300 and path not in _OPEN:
        result.failures.append(f"{what} without a valid token")
    if "Traceback" in text or any(part in text for part in secret if path != "/api/tokens"):
        result.failures.append(f"{what}: a traceback, a path of the server or a token in the answer")


_OPEN = ("/health", "/ready", "/pages/{name}", "/logout", "/login")


def _text(rng: random.Random) -> str:
    value = rng.choice(HOSTILE)
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode("utf-8", "replace").decode()[:_LONGEST]


def _header(rng: random.Random) -> str:
    text = rng.choice(["bytes=-0", "bytes=5-1", "bytes=" + "0-1," * 900, "null", "*/*", _text(rng)])
    return "".join(char for char in text if 32 <= ord(char) < 127)[:4000]


def _body(rng: random.Random) -> bytes:
    ask = {"data": "small", "teacher": "regnety", "views": "0:1", "topk": 1, "img_size": 32}
    kind = rng.randrange(5)
    if kind == 0:
        return rng.randbytes(rng.choice([0, 10, 1000]))
    if kind == 1:
        return json.dumps(rng.choice(HOSTILE)).encode()[:60_000]
    if kind == 2:
        return b"[" * 3000
    ask[rng.choice([*ask, "webhook", "recipe", "follow", "values", "affinity", "name", "team", "x"])] = (
        rng.choice(HOSTILE)
    )
    if kind == 3:
        return urllib.parse.urlencode(
            {name: str(value) for name, value in ask.items()}, errors="replace"
        ).encode()
    return json.dumps(ask).encode()
