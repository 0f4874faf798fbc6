"""Plain lines of progress: soon after the start, then now and then, with the last note."""

from __future__ import annotations

import pytest

from teacher_cache.program import progress


def test_the_first_line_comes_after_two_seconds_and_a_note_stays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now_s = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now_s[0])
    with progress.console("train", 40, "updates") as advance:
        for _ in range(25):
            now_s[0] += 0.5
            advance(1, "loss 2.000" if now_s[0] == 101.0 else "")
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in lines] == ["train 4/40 updates", "train 24/40 updates"]
    assert all(line.endswith("loss 2.000") for line in lines)


def test_the_last_line_is_that_of_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.console("train", 2, "updates") as advance:
        advance(1)
        advance(1, "loss 1.000")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train 2/2 updates")
    assert line.endswith("loss 1.000")
