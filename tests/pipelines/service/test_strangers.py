"""A service among strangers and faults: bodies from nobody, a locked database, jobs that hang."""

from __future__ import annotations

import contextlib
import http.server
import os
import shutil
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil
import pytest
from serving import ASK, SmallService

from pipelines.service.ask import Ask, label_set_of, views_of
from pipelines.service.config import ServiceConfig, WebhookSection, read_config
from pipelines.service.database.leases import Leases
from pipelines.service.database.ledger import Ledger, Queries
from pipelines.service.database.tables import open_database
from pipelines.service.database.tokens import Tokens
from pipelines.service.http.objects import Objects
from pipelines.service.jobs.executor import Verb
from pipelines.service.jobs.local import LocalExecution, LocalExecutor
from pipelines.service.jobs.runner import Runner
from pipelines.service.jobs.webhooks import Webhooks
from teacher_cache.errors import InputError, StoreError

_PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def service(data: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallService]:
    service = SmallService(tmp_path_factory.mktemp("service"), data)
    for user in ("reader", "asker", "admin"):
        service.token(user)
    yield service.start()
    service.kill()


def raw(service: SmallService, head: str, body: bytes = b"") -> bytes:
    """Send a head and a body as they are, and return the answer."""
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body)
        answer = b""
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            while part := connection.recv(65536):
                answer += part
        return answer


@pytest.mark.parametrize("path", ["/api/requests", "/api/resolve", "/api/tokens", "/archives/small/x"])
def test_no_byte_is_read_from_nobody(service: SmallService, path: str) -> None:
    method = "PUT" if path.startswith("/archives") else "POST"
    head = f"{method} {path} HTTP/1.1\nHost: x\nContent-Length: 60000\nContent-Type: application/json"
    assert b"401 Unauthorized" in raw(service, head), "before the body is sent"
    assert b"401 Unauthorized" in raw(service, f"{head}\nAuthorization: Bearer no"), "with a wrong token"
    answer = httpx.request(method, service.url + path, content=b"{bad json")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="teacher-cache"')
    assert answer.json() == {"detail": "Unauthorized"}


def test_a_long_order_is_read_beside_other_requests(service: SmallService) -> None:
    order = b"[" + b"[1,2]," * 600_000 + b"[1,2]]"
    url, slowest_s = f"{service.url}/archives/small/x.filling/students/a.json", 0.0
    sent = [
        threading.Thread(target=httpx.put, args=(url,), kwargs={"content": order, "headers": headers})
        for headers in [service.headers("asker")] * 4
    ]
    for thread in sent:
        thread.start()
    while any(thread.is_alive() for thread in sent):
        begun_s = time.monotonic()
        assert httpx.get(f"{service.url}/health", timeout=30).status_code == 200
        slowest_s = max(slowest_s, time.monotonic() - begun_s)
        time.sleep(0.02)
    for body in (b"{", b"[1]", b'[["a",1]]', b"[[-1,0]]", b"[" * 100_000):
        answer = httpx.put(url, content=body, headers=service.headers("asker"))
        assert answer.status_code == 422, answer.text
    assert slowest_s < 5


def test_a_locked_database_stops_neither_health_nor_reads(service: SmallService) -> None:
    database = sqlite3.connect(service.folder / "service.db", isolation_level=None, timeout=30)
    database.execute("BEGIN IMMEDIATE")
    asks: list[int] = []

    def ask(number: int) -> None:
        body = {**ASK, "views": "0:2", "topk": 1 + number % 3}
        asks.append(
            httpx.post(
                f"{service.url}/api/requests", json=body, headers=service.headers("asker"), timeout=60
            ).status_code
        )

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(60)]
    try:
        for thread in threads:
            thread.start()
        time.sleep(1.0)
        for path in ("/health", "/api/offer", "/api/requests"):
            begun_s = time.monotonic()
            assert httpx.get(service.url + path, headers=service.headers("reader")).status_code == 200
            assert time.monotonic() - begun_s < 3, path
        assert httpx.get(f"{service.url}/ready", timeout=30).status_code == 503, "readiness writes"
    finally:
        database.execute("ROLLBACK")
        database.close()
        for thread in threads:
            thread.join()
    assert set(asks) <= {202, 503}
    answer = httpx.post(f"{service.url}/api/requests", json=ASK, headers=service.headers("asker"), timeout=60)
    assert answer.status_code == 202
    assert httpx.get(f"{service.url}/ready").status_code == 200


def test_a_client_without_a_token_takes_no_permit_to_write(service: SmallService) -> None:
    """It asks for pages, reads none of them, and sends a form: its answer cannot be sent."""
    get = b"GET /requests HTTP/1.1\r\nHost: x\r\n\r\n" * 3000
    post = b"POST /requests HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", service.port)))
            connection.settimeout(2)
            with contextlib.suppress(OSError):
                connection.sendall(get + post)
        answer = httpx.post(
            f"{service.url}/api/requests", json=ASK, headers=service.headers("asker"), timeout=60
        )
        assert answer.status_code == 202


def test_odd_origins_and_a_database_that_is_away(service: SmallService) -> None:
    for origin in ("http://[", "null", "x" * 3000):
        answer = httpx.post(f"{service.url}/login", data={"token": "x"}, headers={"Origin": origin})
        assert answer.status_code == 403
    assert "Traceback" not in service.log.read_text()


def test_a_store_that_is_away_loses_no_archive(tmp_path: Path) -> None:
    objects = Objects("http://127.0.0.1:9/archives")
    with pytest.raises(StoreError):
        objects.has_views("small/x", [range(2)])
    assert not Objects(str(tmp_path)).has_views("small/x", [range(2)])


def test_a_lost_archive_is_made_again(service: SmallService) -> None:
    client = service.client("asker")
    first = client.wait(client.request(**ASK, views="0:2")["id"])
    assert first["state"] == "done", first
    assert client.resolve(**ASK, views="0:2")["state"] == "there"
    archives = Path(service.config["archives"])
    shutil.rmtree(archives / first["archive"])
    time.sleep(6.0)  # that an archive is there is believed for five seconds
    assert client.resolve(**ASK, views="0:2")["state"] == "absent"
    again = client.wait(client.request(**ASK, views="0:2")["id"])
    assert again["state"] == "done"
    assert (archives / first["archive"] / "manifest.json").is_file()
    assert client.resolve(**ASK, views="0:2")["state"] == "there"
    shutil.rmtree(archives / first["archive"])
    answer = httpx.post(f"{service.url}/api/requests/{first['id']}/retry", headers=service.headers("asker"))
    assert answer.status_code == 200
    assert client.wait(first["id"])["state"] == "done"


def test_names_and_ranges_that_are_none(service: SmallService, tmp_path: Path) -> None:
    headers, archives = service.headers("reader"), Path(service.config["archives"])
    archives.mkdir(exist_ok=True)
    (archives / "object").write_bytes(b"0123456789")
    for name in ("x" * 300, "/".join(["y" * 200] * 4), "object/x"):
        assert httpx.get(f"{service.url}/archives/{name}", headers=headers).status_code == 404
    url = f"{service.url}/archives/object"
    for wanted, status in (("bytes=-0", 416), ("bytes=10-", 416), ("bytes=-3", 206), ("bytes=2-4", 206)):
        answer = httpx.get(url, headers={**headers, "Range": wanted})
        assert answer.status_code == status, wanted
    (tmp_path / "object").write_bytes(b"0123456789")
    remote = Objects(str(tmp_path))
    assert remote.store.stat("object") == 10


def test_what_a_browser_is_told(service: SmallService) -> None:
    cookie = {"teacher_cache_token": service.token("reader")}
    for path in ("/", "/requests", "/explorer/small/none/", "/explorer/", "/nowhere", "/api/offer"):
        answer = httpx.get(service.url + path, cookies=cookie)
        assert answer.headers["cache-control"] == "no-store", path
        assert "default-src 'none'" in answer.headers["content-security-policy"], path
    assert (
        "default-src 'none'"
        in httpx.get(f"{service.url}/explorer/small/x/").headers["content-security-policy"]
    )
    other = {"Origin": "https://evil.example"}
    form = {"token": service.token("reader")}
    assert httpx.post(f"{service.url}/login", data=form, headers=other).status_code == 403
    assert httpx.post(f"{service.url}/logout", headers=other).status_code == 403
    own = {"Origin": service.url}
    assert httpx.post(f"{service.url}/login", data=form, headers=own).status_code == 303


def test_streams_are_counted_exactly_and_end_with_their_token(service: SmallService) -> None:
    job = service.client("asker").request(**ASK, views="0:8")["id"]
    made = httpx.post(
        f"{service.url}/api/tokens",
        json={"name": "n", "team": "vision", "scopes": ["read"]},
        headers=service.headers("admin"),
    ).json()
    headers = {"Authorization": f"Bearer {made['token']}"}
    statuses: list[int] = []
    ended = threading.Event()
    url = f"{service.url}/api/requests/{job}/events"

    def listen() -> None:
        with httpx.stream("GET", url, headers=headers, timeout=60) as answer:
            statuses.append(answer.status_code)
            for _ in answer.iter_lines():
                if ended.is_set():
                    return

    threads = [threading.Thread(target=listen) for _ in range(24)]
    for thread in threads:
        thread.start()
    end_s = time.monotonic() + _PATIENCE_S
    while len(statuses) < 24 and time.monotonic() < end_s:
        time.sleep(0.05)
    assert statuses.count(200) <= 24
    assert statuses.count(429) >= 8 or service.client("reader").show(job)["state"] == "done"
    httpx.delete(f"{service.url}/api/tokens/{made['id']}", headers=service.headers("admin"))
    ended.set()
    for thread in threads:
        thread.join(_PATIENCE_S)
        assert not thread.is_alive()


def test_a_removed_teams_token_asks_for_nothing(data: str, tmp_path: Path) -> None:
    service = SmallService(tmp_path / "service", data)
    headers = service.headers("asker")
    service.file.write_text(service.file.read_text().replace("vision: {}", "hearing: {}"))
    service.start()
    try:
        answer = httpx.post(f"{service.url}/api/requests", json=ASK, headers=headers)
        assert answer.status_code == 400
        assert "is no longer in the configuration" in answer.text
    finally:
        service.kill()


class Hung(LocalExecutor):
    """Executor whose processes are stopped (SIGSTOP), as on a hung disk: they obey no SIGTERM."""

    def __init__(self, file: Path) -> None:
        super().__init__(1)
        self._file, self.begun = file, list[LocalExecution]()

    def begin(self, verb: Verb, flags: Mapping[str, Any]) -> LocalExecution:
        del verb, flags
        execution = LocalExecution(self._context, ["serve", "--config", str(self._file)])
        pid = execution._process.pid
        assert pid is not None
        end_s = time.monotonic() + _PATIENCE_S
        while os.getpgid(pid) != pid and time.monotonic() < end_s:
            time.sleep(0.02)
        os.kill(pid, signal.SIGSTOP)
        self.begun.append(execution)
        return execution


@pytest.fixture
def config(data: str, tmp_path: Path) -> ServiceConfig:
    file = tmp_path / "service.yaml"
    file.write_text(
        f"url: http://127.0.0.1:1\nlisten: 127.0.0.1:0\narchives: {tmp_path}/archives\n"
        f"data: {{small: {data}}}\ndatabase: sqlite:///{tmp_path}/service.db\n"
        "teachers: {regnety: {teacher: regnety_002, pretrained: false}}\nteams: {vision: {}}\n"
        "views_per_unit: 2\nlease_s: 4\nstop_grace_s: 1\nplan_timeout_s: 2\n"
    )
    return read_config(str(file))


@pytest.mark.slow
@pytest.mark.parametrize("is_cancelled", [True, False])
def test_a_job_that_hangs_is_ended_and_named(
    config: ServiceConfig, tmp_path: Path, is_cancelled: bool
) -> None:
    if is_cancelled:
        config = msgspec.structs.replace(config, plan_timeout_s=300.0)
    engine = open_database(config.database)
    ledger, queries, tokens = Ledger(engine, time.time), Queries(engine, time.time), Tokens(engine, time.time)
    made = tokens.make("n", "vision", ["request"], days=1, max_requests=5, max_gpu_hours=1)
    user = tokens.user(made[1])
    assert user is not None
    ask = Ask(data="small", teacher="regnety")
    job = ledger.submit(ask, label_set_of(ask, config), views_of(ask, config), user)
    executor = Hung(tmp_path / "service.yaml")
    leases = Leases(engine, time.time, config.lease_s, {})
    runner = Runner(config, leases, executor, Webhooks(engine, None, time.time))
    runner.start()
    try:
        end_s = time.monotonic() + _PATIENCE_S
        while not executor.begun and time.monotonic() < end_s:
            time.sleep(0.05)
        if is_cancelled:
            ledger.act("cancel", job.id, user)
        while time.monotonic() < end_s:
            found = queries.job(job.id)
            assert found is not None
            if found.ended is not None:
                break
            time.sleep(0.1)
        assert found.state == ("cancelled" if is_cancelled else "failed")
        said = "nothing was done for 2 s, the limit plan_timeout_s of this service"
        assert found.error == (None if is_cancelled else said)
        assert found.gpu_hours > 2 / 3600 or is_cancelled, "a plan that fails is charged too"
        assert executor.begun[0].exit_code() == -signal.SIGKILL
    finally:
        runner.close()
        engine.dispose()


def forking_processes() -> set[int]:
    children = psutil.Process().children()
    return {child.pid for child in children if "multiprocessing.forkserver" in " ".join(child.cmdline())}


@pytest.mark.kill
def test_an_executor_that_was_killed_is_started_again_before_a_lease_is_taken() -> None:
    executor = LocalExecutor(1)
    executor.prepare()
    before = forking_processes()
    assert before
    executor.prepare()
    assert forking_processes() == before, "a healthy one is kept"
    execution = executor.begin("plan", {"data": "nowhere", "out": "nowhere", "teacher": "regnety_002"})
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    end_s = time.monotonic() + _PATIENCE_S
    while execution.exit_code() is None and time.monotonic() < end_s:
        time.sleep(0.05)
    assert execution.exit_code() not in (None, 0, 1, 2)
    executor.prepare()
    after = forking_processes()
    assert after
    assert not after & before
    again = executor.begin("plan", {"data": "nowhere", "out": "nowhere", "teacher": "regnety_002"})
    assert forking_processes() == after, "a command begins without another start"
    again.kill()


@pytest.mark.parametrize("name", ["database_password_file", "secret_file"])
@pytest.mark.usefixtures("config")
def test_no_secret_lies_below_the_archives(tmp_path: Path, name: str) -> None:
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / "key").write_text("secret")
    file = tmp_path / "service.yaml"
    key = f"{tmp_path}/archives/key"
    line = f"webhooks: {{hosts: [x], secret_file: {key}}}" if name == "secret_file" else f"{name}: {key}"
    file.write_text(f"{file.read_text()}{line}\n")
    with pytest.raises(InputError, match="is inside the folder of archives"):
        read_config(str(file))


def test_a_webhook_that_fails_is_told_again(config: ServiceConfig, tmp_path: Path) -> None:
    now_s, seen, statuses = 1e9, [], [500, 204]

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(statuses[len(seen) - 1])
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with http.server.HTTPServer(("127.0.0.1", 0), Receiver) as receiver:
        threading.Thread(target=receiver.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{receiver.server_port}"
        (tmp_path / "key").write_text("secret")
        engine = open_database(config.database)

        def clock() -> float:
            return now_s

        ledger, tokens = Ledger(engine, clock), Tokens(engine, clock)
        made = tokens.make("n", "vision", ["request"], days=1, max_requests=5, max_gpu_hours=1)
        user = tokens.user(made[1])
        assert user is not None
        ask = Ask(data="small", teacher="regnety", webhook=f"http://{host}/done")
        job = ledger.submit(ask, label_set_of(ask, config), views_of(ask, config), user)
        leased = Leases(engine, clock, 4.0, {}).claim("a")
        assert leased is not None
        Leases(engine, clock, 4.0, {}).settle(leased, "failed", error="no")
        webhooks = Webhooks(engine, WebhookSection(hosts=(host,), secret_file=str(tmp_path / "key")), clock)
        webhooks.tell()
        webhooks.tell()
        assert len(seen) == 1, "not at once"
        now_s += 6.0
        webhooks.tell()
        now_s += 60.0
        webhooks.tell()
        assert len(seen) == 2
        assert job.id in seen[1].decode()
        receiver.shutdown()
        engine.dispose()
