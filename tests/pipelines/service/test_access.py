"""Every route refuses who may not; nothing that is sent breaks the server, or leads out of its places."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import sqlalchemy as sa
from serving import ASK, SCOPES, SmallService

from teacher_cache.errors import DeniedError, InputError
from teacher_cache.sharing.client import Client
from teacher_cache.storage.store import Store

SCOPE_OF = {
    "GET /metrics": "read",
    "GET /api/offer": "read",
    "GET /api/may-read": "read",
    "POST /api/resolve": "read",
    "POST /api/requests": "request",
    "GET /api/requests": "read",
    "GET /api/requests/{job}": "read",
    "GET /api/requests/{job}/events": "read",
    "POST /api/requests/{job}/approve": "approve",
    "POST /api/requests/{job}/cancel": "request",
    "POST /api/requests/{job}/retry": "request",
    "GET /api/tokens": "admin",
    "POST /api/tokens": "admin",
    "DELETE /api/tokens/{token}": "admin",
    "GET /api/audit": "admin",
    "GET /archives/{name}": "read",
    "HEAD /archives/{name}": "read",
    "PUT /archives/{name}": "request",
}
OPEN = {"GET /health", "GET /ready"}
MAX_BYTES = 2**30
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.fixture(scope="module")
def service(data: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallService]:
    folder = tmp_path_factory.mktemp("service")
    (folder / "hook.key").write_text("secret")
    hooks = {"hosts": ["hooks.example.org"], "secret_file": str(folder / "hook.key")}
    service = SmallService(
        folder, data, webhooks=hooks, request_timeout_s=3.0, max_connections=500, max_views=8
    )
    (folder / "secret").write_text("not yours")
    for user in SCOPES:
        service.token(user)
    yield service.start()
    service.kill()


@pytest.fixture(scope="module")
def job(service: SmallService) -> dict[str, Any]:
    """A job that is done."""
    client = service.client("asker")
    found = client.wait(client.request(**ASK, views="0:2")["id"])
    assert found["state"] == "done", found
    return found


def operations(service: SmallService) -> set[str]:
    document = httpx.get(f"{service.url}/openapi.json", headers=service.headers("reader")).json()
    return {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}


def send(service: SmallService, operation: str, headers: dict[str, str]) -> httpx.Response:
    method, path = operation.split()
    path = path.format(job="0" * 24, token="0" * 16, name="small/x")
    bodies = {"POST /api/tokens": {"name": "n", "team": "vision", "scopes": ["read"]}}
    bodies |= {"PUT /archives/{name}": [], "POST /api/resolve": ASK, "POST /api/requests": ASK}
    return httpx.request(method, service.url + path, headers=headers, json=bodies.get(operation))


def test_the_table_of_scopes_has_every_route(service: SmallService) -> None:
    assert operations(service) == set(SCOPE_OF) | OPEN


@pytest.mark.parametrize("operation", SCOPE_OF)
def test_without_with_a_wrong_and_with_an_expired_token(service: SmallService, operation: str) -> None:
    expired = service.new_token("old", "vision", ("read", "request", "approve", "admin"), days=1e-9)
    for value in (None, "Bearer tc_wrong", f"Bearer {expired}", f"Basic {service.token('admin')}", "Bearer"):
        answer = send(service, operation, {} if value is None else {"Authorization": value})
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert expired not in answer.text


@pytest.mark.parametrize("operation", SCOPE_OF)
def test_each_scope_allows_what_the_table_says(service: SmallService, operation: str) -> None:
    for scope in ("read", "request", "approve", "admin"):
        user = f"only {scope}"
        if user not in service.tokens:
            service.tokens[user] = service.new_token(user, "vision", (scope,))  # type: ignore[arg-type]
        answer = send(service, operation, {"Authorization": f"Bearer {service.tokens[user]}"})
        assert (answer.status_code == 403) == (scope != SCOPE_OF[operation]), (scope, answer.text)
        assert answer.status_code < 500


@pytest.fixture(scope="module")
def fuzzed(data: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallService]:
    """A service of its own: an administrator's random calls end tokens."""
    service = SmallService(tmp_path_factory.mktemp("fuzzed"), data, max_views=4)
    for user in SCOPES:
        service.token(user)
    yield service.start()
    service.kill()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("user", "phases", "examples"),
    [
        ("admin", "examples,fuzzing", 2),
        *(
            pytest.param(user, "examples,coverage,fuzzing", 10, marks=pytest.mark.soak)
            for user in ("reader", "asker", "approver", "admin")
        ),
    ],
)
def test_schemathesis_finds_no_fault(
    fuzzed: SmallService, user: str, phases: str, examples: int, tmp_path: Path
) -> None:
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{fuzzed.url}/openapi.json"),
        *("-H", f"Authorization: Bearer {fuzzed.token(user)}", "--checks", CHECKS, "--seed", "1"),
        *("--max-examples", str(examples), "--phases", phases, "--request-timeout", "20", "--no-color"),
        *("--exclude-path-regex", "events|metrics"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert fuzzed.is_ready()


def test_another_teams_job_is_not_changed(service: SmallService, job: dict[str, Any]) -> None:
    for action in ("cancel", "retry"):
        path = f"{service.url}/api/requests/{job['id']}/{action}"
        assert httpx.post(path, headers=service.headers("other")).status_code == 403
        assert httpx.post(path, headers=service.headers("asker")).status_code == 409


@pytest.mark.parametrize(
    "path",
    [
        "../secret",
        "..%2fsecret",
        "%2e%2e/secret",
        "small/../../secret",
        "small/..%2f..%2fsecret",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        "..\\secret",
        "small/%00",
        "small/x%0d%0aSet-Cookie:a=b",
        "link",
        "linked/secret",
        "file:///etc/passwd",
        "http://example.org/",
        "a" * 5000,
    ],
)
def test_no_path_leads_out_of_the_archives(service: SmallService, job: dict[str, Any], path: str) -> None:
    del job
    archives = Path(service.config["archives"])
    for link, target in (("link", service.folder / "secret"), ("linked", service.folder)):
        if not (archives / link).exists():
            (archives / link).symlink_to(target)
    raw = f"GET /archives/{path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {service.token('reader')}\r\n"
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(f"{raw}Connection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.split()[1] in (b"404", b"400"), answer[:200]
    assert b"not yours" not in answer
    assert b"root:" not in answer


def test_only_a_students_order_can_be_written(service: SmallService, job: dict[str, Any]) -> None:
    for name in ("manifest.json", "../x", f"{job['archive']}/manifest.json", "a/b.filling/students/x.json"):
        answer = httpx.put(f"{service.url}/archives/{name}", headers=service.headers("asker"), json=[[0, 0]])
        assert answer.status_code in (404, 405), name


@pytest.mark.parametrize(
    "changes",
    [
        {"data": "../small"},
        {"data": "/etc"},
        {"teacher": "python:os:system"},
        {"teacher": "hf:owner/name"},
        {"recipe": "/etc/passwd"},
        {"recipe": "<script>alert(1)</script>"},
        {"views": "0:999999"},
        {"views": "4:2"},
        {"topk": 10**9},
        {"webhook": "http://169.254.169.254/latest"},
        {"webhook": "https://hooks.example.org@evil.example/"},
        {"webhook": "file:///etc/passwd"},
        {"out": "/tmp/x"},
        {"img_size": True},
    ],
)
def test_an_ask_names_nothing_but_what_is_offered(service: SmallService, changes: dict[str, Any]) -> None:
    answer = httpx.post(
        f"{service.url}/api/requests", headers=service.headers("asker"), json={**ASK, **changes}
    )
    assert answer.status_code in (400, 422), answer.text
    assert "<script>" not in answer.text or answer.headers["content-type"] == "application/json"
    assert not Path("/tmp/x").exists()


def test_html_in_names_is_text(service: SmallService, job: dict[str, Any]) -> None:
    name = '<img src=x onerror="alert(1)">'
    token = service.new_token(name, "vision", ("read", "request"))
    client = Client(service.url, token)
    assert client.request(**ASK, views="0:2")["id"] == job["id"]
    page = httpx.get(f"{service.url}/requests/{job['id']}", headers={"Authorization": f"Bearer {token}"})
    assert page.status_code == 200
    assert "<img" not in page.text
    assert "&lt;img" in page.text
    assert "script-src 'self'" in page.headers["content-security-policy"]


def test_a_cookie_changes_nothing_for_another_sites_page(service: SmallService, job: dict[str, Any]) -> None:
    cookies = {"teacher_cache_token": service.token("admin")}
    path = f"{service.url}/requests/{job['id']}/cancel"
    for origin in ("https://evil.example", "null", None):
        headers = {} if origin is None else {"Origin": origin}
        assert httpx.post(path, cookies=cookies, headers=headers).status_code == 403
    assert httpx.post(path, cookies=cookies, headers={"Origin": service.url}).status_code == 409


def test_signing_in_leads_to_pages_of_this_host_alone(service: SmallService) -> None:
    for to in ("//evil.example/", "https://evil.example", "/\\evil.example", "javascript:alert(1)"):
        answer = httpx.post(f"{service.url}/login", data={"token": service.token("reader"), "to": to})
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        assert "HttpOnly" in answer.headers["set-cookie"]
        assert "SameSite=strict" in answer.headers["set-cookie"]
    assert httpx.post(f"{service.url}/login", data={"token": "tc_wrong"}).status_code == 401


def memory(service: SmallService) -> int:
    assert service.process is not None
    return psutil.Process(service.process.pid).memory_info().rss


def test_a_body_of_a_gigabyte_is_refused_before_it_is_read(service: SmallService) -> None:
    head = f"POST /api/requests HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {service.token('asker')}\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        connection.sendall(f"{head}Content-Length: {MAX_BYTES}\r\n\r\n".encode())
        assert b" 413 " in connection.recv(4096)


@pytest.mark.slow
def test_a_body_without_a_length_is_refused_when_it_is_too_long(service: SmallService) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(MAX_BYTES // 2**20):
            yield b"0" * 2**20

    with contextlib.suppress(httpx.TransportError):  # closed while the client was still sending
        headers = {**service.headers("asker"), "Content-Type": "application/json"}
        answer = httpx.post(f"{service.url}/api/requests", content=endless(), headers=headers, timeout=30)
        assert answer.status_code == 413
    assert memory(service) < MAX_BYTES
    assert service.is_ready()


@pytest.mark.slow
@pytest.mark.parametrize(
    "start",
    [
        b"",
        b"GET /api/offer HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        b"POST /api/requests HTTP/1.1\r\nAuthorization: Bearer TOKEN\r\nHost:x\r\nContent-Length:900\r\n\r\n",
    ],
)
def test_a_slow_client_is_cut_off(service: SmallService, start: bytes) -> None:
    begun_s = time.monotonic()
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.settimeout(0.2)
        connection.sendall(start.replace(b"TOKEN", service.token("asker").encode()))
        answer = b""
        while time.monotonic() - begun_s < 20:
            try:
                got = connection.recv(4096)
                answer += got
                if not got:
                    break
            except TimeoutError:
                try:
                    connection.sendall(b"a" if start else b"")
                except OSError:
                    break
            except OSError:
                break
    assert time.monotonic() - begun_s < 10
    assert answer == b"" or b" 408 " in answer


@pytest.mark.slow
def test_ten_thousand_connections_at_once(service: SmallService) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = 10_000
    if hard != resource.RLIM_INFINITY and hard < wanted + 500:
        pytest.skip(f"this system allows {hard:,} open files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted + 500, hard))

    async def connect() -> list[int]:
        peak, opened = [], []
        for start in range(0, wanted, 500):
            some = (asyncio.open_connection("127.0.0.1", service.port) for _ in range(500))
            opened += await asyncio.gather(*some, return_exceptions=True)
            peak.append(memory(service))
            del start
        number = sum(not isinstance(each, BaseException) for each in opened)
        for each in opened:
            if not isinstance(each, BaseException):
                each[1].close()
        return [number, max(peak)]

    number, peak_bytes = asyncio.run(connect())
    print(f"{number:,} connections, {peak_bytes / 2**20:,.0f} MiB at most")
    assert number > 9_000
    assert peak_bytes < MAX_BYTES
    end_s = time.monotonic() + 30
    while not service.is_ready():
        assert time.monotonic() < end_s


def test_requests_of_one_token_are_limited_but_not_downloads(data: str, tmp_path: Path) -> None:
    service = SmallService(tmp_path, data, requests_per_s=1.0, burst=3)
    headers = {user: service.headers(user) for user in ("asker", "other")}
    service.start()
    try:
        codes = [httpx.get(f"{service.url}/api/offer", headers=headers["asker"]) for _ in range(6)]
        assert [code.status_code for code in codes][:3] == [200] * 3
        assert codes[-1].status_code == 429
        assert int(codes[-1].headers["retry-after"]) >= 1
        assert httpx.get(f"{service.url}/api/offer", headers=headers["other"]).status_code == 200
        object_url = f"{service.url}/archives/no-such/archive/object"
        found = [httpx.get(object_url, headers=headers["asker"]).status_code for _ in range(6)]
        assert found == [404] * 6
    finally:
        service.kill()


def test_a_revoked_token_ends(service: SmallService) -> None:
    admin = httpx.Client(base_url=service.url, headers=service.headers("admin"))
    made = admin.post("/api/tokens", json={"name": "n", "team": "vision", "scopes": ["read"]}).json()
    headers = {"Authorization": f"Bearer {made['token']}"}
    assert httpx.get(f"{service.url}/api/offer", headers=headers).status_code == 200
    assert admin.delete(f"/api/tokens/{made['id']}").status_code == 204
    assert httpx.get(f"{service.url}/api/offer", headers=headers).status_code == 401
    with pytest.raises(DeniedError):
        Client(service.url, made["token"]).offer()
    lines = admin.get("/api/audit").json()
    assert {"make token", "revoke token"} <= {line["action"] for line in lines}
    assert made["token"] not in str(lines)


def test_a_client_sends_the_environments_token_to_no_other_service(
    service: SmallService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER_CACHE_SERVICE", "https://labels.example.org")
    monkeypatch.setenv("TEACHER_CACHE_TOKEN", service.token("reader"))
    with pytest.raises(InputError, match="TEACHER_CACHE_TOKEN not set"):
        Client(service.url)
    with pytest.raises(InputError, match="not of the service"):
        Store(f"service://127.0.0.1:{service.port}/archives/x")


def test_the_description_of_the_api_is_for_readers(service: SmallService) -> None:
    assert httpx.get(f"{service.url}/openapi.json").status_code == 401


def test_a_client_says_what_was_wrong(service: SmallService) -> None:
    with pytest.raises(InputError, match="'smal' is not offered") as error:
        service.client("asker").resolve(**{**ASK, "data": "smal"})
    assert "nearest" in str(error.value)


def test_tokens_are_nowhere(service: SmallService, job: dict[str, Any]) -> None:
    """After all of the above: not in the log, the database, the pages, or any file that the service wrote."""
    pages = [
        "/",
        "/requests",
        f"/requests/{job['id']}",
        "/api/tokens",
        "/api/audit",
        "/metrics",
        "/openapi.json",
    ]
    texts = [httpx.get(service.url + page, headers=service.headers("admin")).text for page in pages]
    with sa.create_engine(service.config["database"]).connect() as connection:
        connection.execute(sa.text("PRAGMA wal_checkpoint(TRUNCATE)"))
    files = [file for file in service.folder.rglob("*") if file.is_file() and not file.is_symlink()]
    assert len(files) > 10
    contents = [file.read_bytes() for file in files] + [text.encode() for text in texts]
    for token in service.tokens.values():
        assert not any(token.encode() in content for content in contents)
