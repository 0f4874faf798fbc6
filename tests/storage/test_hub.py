"""hf:// through the real client library, against a small server of the hub's calls."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import free_port, labels_tree, started

REPO = "team-a/labels"
URL = f"hf://datasets/{REPO}"


class Hub:
    """A hub of its own, and what clients need in their environment."""

    def __init__(self, home: Path) -> None:
        port = free_port()
        self.process = started("hub_server.py", port, REPO)
        self.environment = {
            **os.environ,
            "HF_ENDPOINT": f"http://127.0.0.1:{port}",
            "HF_TOKEN": "hf_test",
            "HF_HOME": str(home / "hf"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }

    def run(self, *words: object, code: int = 0, **changes: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipelines.cli", *map(str, words)]
        environment = {**self.environment, **changes}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout + done.stderr
        return done

    def python(self, program: str, *words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, *map(str, words)]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    hub = Hub(tmp_path_factory.mktemp("hub"))
    yield hub
    hub.process.kill()
    hub.process.wait()


@pytest.fixture(scope="module")
def pushed(hub: Hub, labels: str) -> str:
    hub.run("push", labels, f"{URL}/deit")
    return f"{URL}/deit"


_CONTRACT = f"""
from teacher_cache.storage.store import Store
store = Store("{URL}/contract")
assert store.stat("a/b") is None and store.list() == []
store.put("a/b", b"0123456789")
assert (store.get("a/b"), store.get_range("a/b", 2, 5), store.stat("a/b")) == (b"0123456789", b"234", 10)
store.put("a/b", b"new")
assert store.get("a/b") == b"new"
store.put_many({{"c/d": b"1", "c/e": b"22"}})
assert store.sizes() == {{"a/b": 3, "c/d": 1, "c/e": 2}}
assert store.get_many(["c/e", "c/d"]) == [b"22", b"1"]
pinned = store.pinned()
store.delete("c/d")
assert store.list("c") == ["c/e"]
assert pinned.list("c") == ["c/d", "c/e"]
assert pinned.pinned() is pinned
assert store.beside("../other").url == "{URL}/other"
try:
    store.beside("../../other")
except Exception as error:
    print(type(error).__name__)
"""


@pytest.mark.slow
def test_a_repository_keeps_the_promises_of_a_store(hub: Hub) -> None:
    assert hub.python(_CONTRACT).stdout.strip() == "InputError"


_ROUND = """
import contextlib, io, json, sys
from pipelines.cli import main
def run(*words, code=0):
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert main(list(words)) == code, words
    return said.getvalue()
labels, copy, part, url = sys.argv[1:]
run("push", labels, url)
again = json.loads(run("push", labels, url, "--json"))
assert (again["units"], again["moved_bytes"]) == (0, 0), again
assert f"{url} is now {url.rpartition('/')[0]}@" in run("pull", url, copy)
assert json.loads(run("pull", url, part, "--shards", "1:3", "--json"))["shards"] == [1, 2]
run("card", url, "--name", "written to the branch, read at a commit")
assert "no problems (full)" in run("verify", url, "--level", "full")
from teacher_cache.storage import hub
hub.HubStore.max_folder_files = 9
run("push", labels, url + "-full", code=2)
"""


@pytest.mark.slow
def test_an_archive_goes_to_a_repository_and_comes_back(hub: Hub, labels: str, tmp_path: Path) -> None:
    said = hub.python(_ROUND, labels, tmp_path / "copy", tmp_path / "part", f"{URL}/round").stderr
    assert "It takes 9 files in a folder" in said
    assert labels_tree(tmp_path / "copy") == labels_tree(labels)


@pytest.mark.slow
def test_a_student_reads_labels_from_a_pinned_revision(hub: Hub, pushed: str, data: str, labels: str) -> None:
    program = f"""
from teacher_cache import LabelledViews, open_labels
import tempfile
from teacher_cache.storage.cache import CacheRoom
room = CacheRoom(tempfile.mkdtemp())
views = LabelledViews({data!r}, "{pushed}", batch_size=8, room=room)
assert "@" in views.labels.url, views.labels.url
local = open_labels({labels!r})
for batch in views.epoch(0, workers=1):
    same = local.lookup(batch.rows_B.numpy(), batch.views_B.numpy())
    assert (batch.labels.class_ids_BK == same.class_ids_BK).all()
print("read")
"""
    assert hub.python(program).stdout.strip() == "read"


@pytest.mark.slow
def test_refusals_say_what_to_do(hub: Hub, labels: str) -> None:
    assert "hf repo create team-b/none" in hub.run("push", labels, "hf://datasets/team-b/none", code=2).stderr
    assert "HF_TOKEN" in hub.run("push", labels, f"{URL}/x", code=2, HF_TOKEN="hf_wrong").stderr
