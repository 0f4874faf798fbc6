"""docs/service.md is a story of three users; here it is run, against real servers and databases."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from browser import FLAGS, check_accessible, chromium_path
from playwright.sync_api import sync_playwright
from serving import SmallService
from support import IMG_SIZE, TEACHER, teacher_checkpoint, write_class_folders

from pipelines.cli import main as teacher_cache_main
from student.cli import main as student_main
from teacher_cache.archive.readers.archive import ArchiveReader

STORY = (Path(__file__).parents[1] / "docs" / "service.md").read_text()
SMALL_STUDENT = [
    *("--steps=2", "--batch-size=8", "--device=cpu"),
    *("--model-kwargs", "embed_dim=48", "depth=1", "num_heads=3", f"img_size={IMG_SIZE}"),
]
TABLES = ("tokens", "label_sets", "jobs", "requests", "audit")
WAIT_MS = 120_000


def blocks(title: str, language: str = "sh") -> list[str]:
    """Return the blocks of a language below a heading."""
    start = STORY.index(f"### {title}")
    end = STORY.find("\n##", start + 4)
    return re.findall(rf"```{language}\n(.*?)```", STORY[start:end], re.DOTALL)


def commands(title: str) -> list[list[str]]:
    text = "".join(blocks(title)).replace("\\\n", " ")
    return [shlex.split(line) for line in text.splitlines()]


class Office:
    """Users in a folder, and the server that they share."""

    def __init__(
        self,
        folder: Path,
        database: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        self.folder, self._monkeypatch, self._capsys = folder, monkeypatch, capsys
        monkeypatch.chdir(folder)
        config = yaml.safe_load(blocks("Ada starts the service", "yaml")[0])
        teacher = {"teacher": TEACHER, "checkpoint": teacher_checkpoint(), "device": "cpu", "batch_size": 16}
        recipe = folder / "small.yaml"
        del config["url"], config["listen"], recipe
        self.changes = {
            **config,
            "database": database or f"sqlite:///{folder}/service.db",
            "archives": str(folder / config["archives"]),
            "data": {"photos": str(folder / "data")},
            "teachers": {"regnety": teacher},
            "approval_gpu_hours": 9e-5,  # five times a small request here, and a fifth of the dear one
        }
        self.serving = SmallService(folder, str(folder / "data"), **self.changes)
        self.tokens: dict[str, str] = {}

    def archive(self, link: str) -> Path:
        """Return the folder of the archive that a link names."""
        return self.folder / "archives" / link.partition("/archives/")[2]

    def run(self, user: str, words: list[str], **replaced: str) -> str:
        """Run a command of the story as a user, and return what it prints."""
        port = f"127.0.0.1:{self.serving.port}"
        words = [word.replace("127.0.0.1:8000", port) for word in words]
        for name, value in replaced.items():
            words = [word.replace(name, value) for word in words]
        self._monkeypatch.setenv("TEACHER_CACHE_SERVICE", self.serving.url)
        self._monkeypatch.setenv("TEACHER_CACHE_TOKEN", self.tokens.get(user, ""))
        self._capsys.readouterr()
        if words[0] == "student":
            code = student_main([*words[1:], *SMALL_STUDENT])
        else:
            small = ["--img-size", str(IMG_SIZE), "--topk", "2"] if words[2] in ("submit", "resolve") else []
            words = [word if word != "service.yaml" else str(self.serving.file) for word in words]
            code = teacher_cache_main([*words[1:], *small])
        found = self._capsys.readouterr()
        assert code == 0, (words, found)
        return found.out


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.soak)])
def office(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[Office]:
    database = request.getfixturevalue("postgres") if request.param == "postgresql" else None
    office = Office(tmp_path, database.new_database() if database else "", monkeypatch, capsys)
    yield office
    office.serving.kill()


@pytest.mark.slow
def test_the_story_of_three_users(office: Office) -> None:
    write_class_folders(office.folder / "images")
    pack, *tokens, serve = commands("Ada starts the service")
    office.run("Ada", pack)
    for words in tokens:
        office.tokens[words[words.index("--name") + 1]] = office.run("", words).split()[0]
    assert serve == ["teacher-cache", "serve", "--config", "service.yaml"]
    office.serving.start()

    absent, submit, partly = commands("Rita asks for labels")
    assert office.run("Rita", absent).startswith("absent: views 0:4, missing 0:4")
    first = office.run("Rita", submit)
    job, link = first.split()[0], first.split()[-1]
    assert link.startswith(f"service://127.0.0.1:{office.serving.port}/archives/photos/regnety-deit-k2-")
    assert office.run("Rita", partly).startswith("partly: views 0:6, missing 4:6")
    assert office.run("Rita", absent).split()[-1] == link

    again, listed, train = commands("Sam asks for the same, and trains")
    assert office.run("Sam", again) == first
    assert len(office.run("Sam", listed).splitlines()) == 1
    office.run("Sam", train, ID=job)
    assert (office.folder / "first" / "last.safetensors").exists()

    much, approve = commands("Rita asks for much, and Ada approves")
    dear = office.run("Rita", much, **{"0:256": "0:128"}).split()[0]
    client = office.serving
    _until(office, dear, "waiting")
    watched = _watch_in_chromium(office, dear) if chromium_path() else office.run("Ada", approve, ID=dear)
    assert watched
    _until(office, dear, "done")
    assert ArchiveReader(str(office.archive(link))).views == list(range(128))

    follow, second = commands("Sam trains while the labels are made")
    job = office.run("Sam", follow).split()[0]
    office.run("Sam", second, ID=job)
    assert (office.folder / "second" / "last.safetensors").exists()
    assert client.stop() == 0
    texts = [client.log.read_text(), *(str(row) for table in TABLES for row in client.rows(table))]
    assert not any(token in text for token in office.tokens.values() for text in texts)


def _until(office: Office, job: str, state: str) -> None:
    for _ in range(240):
        text = office.run("Ada", ["teacher-cache", "request", "show", "--id", job])
        if f" {state}:" in text:
            return
        assert " failed:" not in text, text
        time.sleep(0.5)
    raise AssertionError(text)


def _watch_in_chromium(office: Office, job: str) -> bool:
    """Sign in as Ada, approve the job with the keyboard, and watch its progress."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        page = browser.new_page()
        page.goto(f"{office.serving.url}/requests/{job}")
        page.get_by_label("Token").fill(office.tokens["Ada"])
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Approve").focus()
        page.keyboard.press("Enter")
        page.wait_for_function(
            "() => { const n = document.getElementById('units').value; return n > 0 && n < 300 }",
            timeout=WAIT_MS,
        )
        page.wait_for_function(
            "() => document.getElementById('state').textContent === 'done'", timeout=WAIT_MS
        )
        page.get_by_text("sha256 of the manifest").wait_for(timeout=WAIT_MS)
        is_linked = "service://" in page.content()
        check_accessible(page)
        browser.close()
    return is_linked
