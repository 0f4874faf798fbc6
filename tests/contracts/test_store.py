"""What every store promises, on a local folder, on fsspec's memory and on a real S3 server."""

import errno
import os
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest

from teacher_cache.errors import InputError, TeacherCacheError
from teacher_cache.storage.store import Store


@pytest.fixture(params=["local", "memory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        return Store(request.getfixturevalue("s3") + "/root")
    return Store(tmp_path / "root" if request.param == "local" else f"memory://{uuid.uuid4().hex}")


def test_an_object_comes_back(store: Store) -> None:
    store.put("a/b", b"0123456789")
    assert store.get("a/b") == b"0123456789"
    assert store.get_range("a/b", 2, 5) == b"234"
    assert store.get_range("a/b", 8, 50) == b"89"
    assert store.stat("a/b") == 10


def test_several_objects_and_spans_come_back_together(store: Store) -> None:
    for number in range(5):
        store.put(f"a/{number}", bytes([number]) * 10)
    assert store.get_many([f"a/{number}" for number in (3, 1)]) == [b"\3" * 10, b"\1" * 10]
    assert store.get_many([]) == []
    with pytest.raises(FileNotFoundError):
        store.get_many(["a/1", "a/9"])
    store.put("b", b"0123456789")
    assert store.get_ranges("b", [(7, 9), (0, 2)]) == [b"78", b"01"]
    assert store.sizes() == {**{f"a/{number}": 10 for number in range(5)}, "b": 10}


def test_an_object_is_copied_to_a_file(store: Store, tmp_path: Path) -> None:
    store.put("a", b"content")
    store.copy_to("a", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"content"
    with store.local_copy("a") as path:
        assert path.read_bytes() == b"content"


def test_a_put_replaces(store: Store) -> None:
    store.put("a", b"old")
    store.put("a", b"new")
    assert store.get("a") == b"new"


def test_a_new_object_never_replaces(store: Store) -> None:
    assert store.put_new("a/b", b"first")
    assert not store.put_new("a/b", b"second")
    assert store.get("a/b") == b"first"
    assert store.list() == ["a/b"]


def test_what_is_not_there_is_said(store: Store) -> None:
    assert store.stat("nothing") is None
    assert store.list("nowhere") == []
    with pytest.raises(FileNotFoundError):
        store.get("nothing")


def test_a_folder_is_no_object(store: Store) -> None:
    store.put("a/b", b"")
    assert store.stat("a") is None


def test_names_are_listed_sorted_and_whole(store: Store) -> None:
    for name in ("b", "a/y", "a/x", "c/d/e"):
        store.put(name, b"1")
    assert store.list() == ["a/x", "a/y", "b", "c/d/e"]
    assert store.list("a") == ["a/x", "a/y"]


def test_a_file_is_put_when_its_block_ends_well(store: Store) -> None:
    with store.put_file("whole") as path:
        path.write_bytes(b"content")
        assert store.stat("whole") is None
    assert store.get("whole") == b"content"


def test_a_file_is_not_put_when_its_block_fails(store: Store) -> None:
    with pytest.raises(RuntimeError), store.put_file("torn") as path:
        path.write_bytes(b"half")
        raise RuntimeError
    assert store.list() == []


def test_deleting_twice_is_harmless(store: Store) -> None:
    store.put("a", b"1")
    store.delete("a")
    store.delete("a")
    assert store.list() == []


@pytest.mark.parametrize("name", ["../up", "/absolute", "a/../../b"])
def test_no_name_leaves_the_root(store: Store, name: str) -> None:
    with pytest.raises(ValueError, match="leaves the store"):
        store.put(name, b"")


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"cannot write to .*file/under"):
        Store(tmp_path / "file" / "under").put("a", b"1")


def test_an_error_of_the_block_itself_stays_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such source"), Store(tmp_path).put_file("a") as path:
        path.write_bytes(Path(tmp_path, "no such source").read_bytes())


def test_a_full_disk_is_said_with_exit_code_1_and_tears_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path)
    store.put("a", b"old")

    def full(path: Path, data: bytes) -> None:
        path.open("wb").write(data[:1])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(TeacherCacheError, match=r"No space left(.|\n)*make room") as caught:
        store.put("a", b"new")
    assert caught.value.exit_code == 1
    assert store.get("a") == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_the_dead_are_swept_and_the_living_are_left(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from teacher_cache.storage.store import Store\n"
        "with Store(sys.argv[1]).put_file('torn') as path:\n"
        "    path.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert killed.returncode < 0
    assert len(list(tmp_path.iterdir())) == 1
    store = Store(tmp_path)
    assert store.list() == []
    with store.put_file("mine") as path:
        path.write_bytes(b"")
        store.sweep()
        assert path.exists()
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_a_lock_that_is_not_waited_for_is_refused_while_another_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("teacher_cache.storage.durable._BUSY_S", 0.1)
    with Store(tmp_path).exclusive(), pytest.raises(InputError, match="is in use by another process"):
        Store(tmp_path).exclusive(waits=False).__enter__()
    with Store(tmp_path).exclusive(waits=False):
        pass


def test_a_process_forked_inside_a_lock_does_not_keep_it(tmp_path: Path) -> None:
    """As a renderer is, while another thread writes a unit."""
    store = Store(tmp_path)
    wait, go = os.pipe()
    with store.exclusive():
        child = os.fork()
        if not child:
            os.close(go)
            os.read(wait, 1)
            os._exit(0)
    entered = threading.Event()

    def enter() -> None:
        with store.exclusive():
            entered.set()

    threading.Thread(target=enter, daemon=True).start()
    try:
        assert entered.wait(10)
    finally:
        os.close(go)
        os.waitpid(child, 0)
