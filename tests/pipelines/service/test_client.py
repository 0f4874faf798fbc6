"""What a user meets who asks wrongly: one clear error, before anything is begun."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import ASK, SmallService
from support import free_port, labels_tree

from pipelines.cli import main
from teacher_cache.errors import DeniedError, InputError
from teacher_cache.sharing.client import Client
from teacher_cache.storage.service import SERVICE_VARIABLE, TOKEN_VARIABLE
from teacher_cache.storage.store import Store

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def service(data: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallService]:
    service = SmallService(tmp_path_factory.mktemp("service"), data)
    for user in ("reader", "asker"):
        service.token(user)
    yield service.start()
    service.kill()


@pytest.fixture(scope="module")
def done(service: SmallService) -> dict[str, dict[str, str]]:
    client = service.client("asker")
    return client.wait(client.request(**ASK, views="0:2")["id"])


@pytest.fixture
def here(service: SmallService, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of a user of the service."""
    monkeypatch.setenv(SERVICE_VARIABLE, service.url)
    monkeypatch.setenv(TOKEN_VARIABLE, service.token("asker"))
    return monkeypatch


@pytest.mark.parametrize("job", ["", "../../health", "nonsense", "0" * 23, "0" * 24 + "/events"])
def test_an_id_that_is_none_is_refused_before_anything_is_asked(job: str) -> None:
    client = Client(f"http://127.0.0.1:{free_port()}", "token")
    for ask in (client.show, client.wait, lambda job: client.act("cancel", job)):
        with pytest.raises(InputError, match="24 digits"):
            ask(job)


def test_a_token_that_cannot_be_one_is_said() -> None:
    for token in ("wröng", "to\nken"):
        with pytest.raises(InputError, match=TOKEN_VARIABLE):
            Client("http://127.0.0.1:8000", token)


def test_another_web_server_is_no_label_service(tmp_path: Path) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "api").mkdir()
    (tmp_path / "api" / "offer").write_text("<h1>Sign in</h1>")
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *words: Quiet(*words, directory=str(tmp_path))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        client = Client(f"http://127.0.0.1:{server.server_address[1]}", "token")
        for ask in (client.offer, client.requests):
            with pytest.raises(InputError, match="not as a label service") as error:
                ask()
            assert SERVICE_VARIABLE in error.value.remedy
    finally:
        server.shutdown()


def test_the_address_of_a_page_is_not_the_services(service: SmallService) -> None:
    with pytest.raises(InputError, match="not as a label service"):
        Client(f"{service.url}/requests", service.token("reader")).requests()


@pytest.mark.usefixtures("here")
def test_what_is_out_of_bounds_is_named(capsys: Capture) -> None:
    words = ["request", "resolve", "--data", "small", "--teacher", "regnety", "--views", "0:99999999"]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "views '0:99999999': " in said
    assert "Remedy: correct views" in said


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_request_is_pulled_as_a_student_reads_it(service: SmallService, done: dict, tmp_path: Path) -> None:
    url = f"service://127.0.0.1:{service.port}/requests/{done['id']}"
    assert main(["pull", url, str(tmp_path / "copy")]) == 0
    assert labels_tree(tmp_path / "copy") == labels_tree(service.folder / "archives" / done["archive"])


def test_a_wrong_token_is_no_outage(
    here: pytest.MonkeyPatch, done: dict, tmp_path: Path, capsys: Capture
) -> None:
    here.setenv(TOKEN_VARIABLE, "tc_wrong")
    link = done["link"]["labels"]
    for words in (["pull", link, str(tmp_path / "copy")], ["verify", link]):
        assert main(words) == 2
        said = capsys.readouterr().err
        assert "access is denied" in said
        assert TOKEN_VARIABLE in said
    with pytest.raises(DeniedError):
        Store(link).get("manifest.json")


@pytest.mark.usefixtures("here")
def test_status_does_not_count_what_it_cannot_see(done: dict, capsys: Capture) -> None:
    assert main(["status", done["link"]["labels"]]) == 2
    assert "lists no files" in capsys.readouterr().err


@pytest.mark.slow
def test_a_service_that_starts_again_is_waited_for(data: str, tmp_path: Path) -> None:
    service, said = SmallService(tmp_path, data), []
    client = service.start().client("asker")
    try:
        job = client.request(**ASK, views="0:2")["id"]
        service.kill()

        def say(line: str) -> None:
            said.append(line)
            if "cannot be reached" in line and len(said) == 1:
                service.start()

        assert client.wait(job, say)["state"] == "done"
        assert "it is asked again" in said[0]
    finally:
        service.kill()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"small": "nowhere"}}, "has no dataset.json"),
        ({"teachers": {"regnety": {"teacher": "regnety_002", "checkpoint": "no.safetensors"}}}, "not a file"),
    ],
)
def test_an_offer_that_cannot_be_kept_is_refused_at_the_start(
    changes: dict, message: str, data: str, tmp_path: Path, capsys: Capture
) -> None:
    service = SmallService(tmp_path, data, **changes)
    assert main(["serve", "--config", str(service.file)]) == 2
    assert message in capsys.readouterr().err
