import uuid
from pathlib import Path

import pytest

from teacher_cache.errors import UnreachableError
from teacher_cache.storage.line_log import LineLog
from teacher_cache.storage.store import Store


def test_on_a_local_disk_every_line_is_there_at_once(tmp_path: Path) -> None:
    with LineLog(Store(tmp_path), "log") as log:
        log.write("one")
        assert (tmp_path / "log").read_text() == "one\n"
        log.write("two")
    assert (tmp_path / "log").read_text() == "one\ntwo\n"


@pytest.mark.parametrize("ending", ["well", "badly"])
def test_elsewhere_it_is_written_now_and_then_and_whole_at_the_end(ending: str) -> None:
    store, now_s = Store(f"memory://{uuid.uuid4().hex}"), 0.0
    try:
        with LineLog(store, "log", lambda: now_s) as log:
            log.write("one")
            assert store.get("log") == b"one\n"
            log.write("two")
            assert store.get("log") == b"one\n"
            now_s = 31.0
            log.write("three")
            assert store.get("log") == b"one\ntwo\nthree\n"
            log.write("four")
            if ending == "badly":
                raise ValueError
    except ValueError:
        pass
    assert store.get("log") == b"one\ntwo\nthree\nfour\n"


def test_a_line_that_cannot_be_written_is_written_later(monkeypatch: pytest.MonkeyPatch) -> None:
    store, now_s = Store(f"memory://{uuid.uuid4().hex}"), 0.0

    def refuse(*_: object) -> None:
        raise UnreachableError("the store is away")

    log = LineLog(store, "log", lambda: now_s)
    monkeypatch.setattr(type(store), "put", refuse)
    log.write("one")
    with pytest.raises(UnreachableError):
        log.close()
    monkeypatch.undo()
    now_s = 31.0
    log.write("two")
    assert store.get("log") == b"one\ntwo\n"


def test_on_a_full_disk_the_first_error_is_the_one_that_is_told(tmp_path: Path) -> None:
    log = LineLog(Store(tmp_path), "log")
    with Path("/dev/full").open("ab", buffering=0) as full, pytest.raises(ValueError, match="the first"), log:
        log._file = full
        log.write("one")
        raise ValueError("the first")
