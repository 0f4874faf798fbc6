import uuid
from pathlib import Path

import pytest

from teacher_cache.line_log import LineLog
from teacher_cache.store import Store


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
