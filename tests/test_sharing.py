"""docs/sharing.md is a story of two teams; here it is run, against a real S3 server, in two folders."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from browser import FLAGS, chromium_path
from playwright.sync_api import sync_playwright
from support import IMG_SIZE, S3, free_port, started, write_class_folders

from pipelines.cli import main as teacher_cache_main
from student.cli import main as student_main
from teacher_cache.archive.format.manifest import MANIFEST_FILE
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.storage.store import Store

ROOT = Path(__file__).parents[1]
STORY = (ROOT / "docs" / "sharing.md").read_text()
TEACHER = ["--no-pretrained", f"--img-size={IMG_SIZE}"]
SMALL = {
    "extract": [*TEACHER, "--topk=2"],
    "verify": ["--no-pretrained"],
    "train": [
        *("--steps=2", "--batch-size=8", "--model-kwargs", "embed_dim=48", "depth=1", "num_heads=3"),
        f"img_size={IMG_SIZE}",
    ],
}
PER_CLASS = 11
FROM_THE_MANIFEST = re.compile(
    r"zarr\.json$|^spec\.json$|^part\.json$|^SHA256SUMS$|^receipts/\d|^receipts/affinity"
)
"""Files of a copy that are made again from its manifest, and not fetched."""


def chapter(title: str) -> list[list[str]]:
    """Return the commands below a heading, with small models and few steps."""
    text = STORY[STORY.index(f"### {title}") :]
    block = re.search(r"```sh\n(.*?)```", text, re.DOTALL)
    assert block
    lines = block[1].replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        program, *words = shlex.split(line.replace("regnety_160.deit_in1k", "regnety_002"))
        is_verify = words[0] == "verify" and "teacher" not in words
        found.append([program, *words, *(SMALL.get(words[0], []) if not is_verify else [])])
    return found


class Team:
    """A new user in a folder of its own."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.folder, self._monkeypatch, self._capsys = folder, monkeypatch, capsys
        write_class_folders(folder / "images", PER_CLASS)

    def run(self, words: list[str]) -> str:
        """Run a command in the team's folder, and return what it prints."""
        self._monkeypatch.chdir(self.folder)
        self._monkeypatch.setenv("HOME", str(self.folder))
        programs = {"teacher-cache": teacher_cache_main, "student": student_main}
        self._capsys.readouterr()
        if words[0] in programs:
            assert programs[words[0]](words[1:]) == 0, self._capsys.readouterr()
        else:
            subprocess.run(words, check=True)
        return self._capsys.readouterr().out

    def run_alone(self, words: list[str], **environment: str) -> None:
        """Run a command in a process and an environment of its own."""
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, **environment}
        command = [sys.executable, "-m", "pipelines.cli", *words[1:]]
        subprocess.run(command, cwd=self.folder, env=environment, check=True)


@pytest.fixture
def counting(s3_server: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """The bucket s3://labels; the URL of a proxy that counts what is fetched from it, and its log."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir("labels")
    log, port = tmp_path / "requests", free_port()
    process = started("faulty_proxy.py", port, s3_server.port, 0, 0, 0, 0, log)
    yield f"http://127.0.0.1:{port}", log
    process.kill()
    process.wait()


def received(log: Path) -> int:
    """Return the bytes that clients received, and forget them."""
    lines = [line.split() for line in log.read_text().splitlines()]
    log.write_text("")
    return sum(int(size) for method, _, size in lines if method == "GET")


@pytest.mark.slow
@pytest.mark.s3
def test_the_story_of_two_teams(
    counting: tuple[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    proxy, log = counting
    a, b = (Team(tmp_path / name, monkeypatch, capsys) for name in ("team-a-home", "team-b-home"))

    for words in chapter("Team A makes labels"):
        a.run(words)
    manifest_of_a = Store("s3://labels/team-a/deit").get(MANIFEST_FILE)
    (b.folder / "pinned.pub").write_bytes((a.folder / "team-a.key.pub").read_bytes())
    _find_on_the_page(Store("s3://labels").get("index.html"), tmp_path)

    pack, take, pull, verify, teacher, train = chapter("Team B finds them")
    b.run(pack)
    text = b.run(take)
    assert "taken     20 units" in text
    assert "nothing was computed" in text
    log.write_text("")
    b.run_alone(pull, AWS_ENDPOINT_URL=proxy)
    moved, part = received(log), b.folder / "team-a" / "deit"
    sizes = {str(file.relative_to(part)): file.stat().st_size for file in part.rglob("*") if file.is_file()}
    weight = sum(size for name, size in sizes.items() if not FROM_THE_MANIFEST.search(name))
    print(f"pulled {moved:,} bytes for a part of {weight:,}")
    assert abs(moved / weight - 1) < 0.05
    assert ArchiveReader(str(part)).views == [0, 1, 2, 3]
    text = b.run(verify)
    assert "signed by Team A" in text
    assert "images cc-by-4.0, teacher apache-2.0" in text
    assert "the labels are the teacher's" in b.run(teacher)
    assert "16 of 33" in b.run([*train, "--dry-run"])
    b.run(train)

    for words in chapter("Team B fetches the rest"):
        b.run(words)
    assert Store("s3://labels/team-a/deit").get(MANIFEST_FILE) == manifest_of_a
    both = ArchiveReader("s3://labels/team-b/deit")
    assert both.views == list(range(16))
    assert list(both.manifest.extends) == ["../../team-a/deit"]
    assert both.part is None
    names = Store("s3://labels").list()
    objects = [name for name in names if "/c/" in name and "affinity" not in name]
    contents = [Store("s3://labels").get(name) for name in objects]
    digests = {digest for receipt in both.receipts for digest in receipt.objects.values()}
    assert len(objects) == 3 * 40
    assert len(contents) == sum(len(receipt.objects) for receipt in both.receipts)
    assert {len(content) for content in contents} <= {size for _, size in digests}


def _find_on_the_page(page: bytes, folder: Path) -> None:
    """Search the catalog's page for the labels, and read the command that fetches them."""
    assert b"teacher-cache pull s3://labels/team-a/deit " in page
    if chromium_path() is None:  # tests of the page skip, this story goes on
        return
    (folder / "index.html").write_bytes(page)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        opened = browser.new_page()
        opened.goto(f"file://{folder}/index.html")
        opened.get_by_label("Search", exact=True).fill("deit regnety")
        opened.locator(".archives > li:visible summary").click()
        command = opened.locator("details[open] pre").inner_text()
        browser.close()
    assert command.startswith("teacher-cache pull s3://labels/team-a/deit ")
