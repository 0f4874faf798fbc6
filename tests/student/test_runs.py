"""Named runs are flags that parse, and `--run` stands for them."""

import re

import pytest
from support import IMG_SIZE

from student.cli import main
from student.config import TrainConfig
from student.runs import RUNS
from teacher_cache.program.commandline import as_words, parse


@pytest.mark.parametrize("name", RUNS)
def test_a_named_run_says_what_it_takes_and_gives(name: str) -> None:
    said = RUNS[name].__doc__ or ""
    assert "Hardware: " in said
    for figure in ("Hours: ", "Accuracy: "):
        (line,) = [line for line in said.splitlines() if figure in line]
        assert re.search(r"\d.* published \(|: measured with |: not measured\.", line), line
    labels = [] if RUNS[name]()["distillation"] == "none" else ["--labels=labels"]
    words = [*as_words(RUNS[name]()), "--data=data", "--output=out", *labels]
    direct = parse(TrainConfig, words, "train")
    named = parse(TrainConfig, ["--run", name, "--data=data", "--output=out", *labels], "train", RUNS)
    assert direct == named
    assert isinstance(direct, TrainConfig)


def test_flags_after_the_name_override(data: str, labels: str, capsys: pytest.CaptureFixture) -> None:
    flags = ["--dry-run", f"--data={data}", f"--labels={labels}", "--output=nowhere"]
    assert main(["train", "--run=cifar10_cpu", *flags, "--batch-size=4", "--epochs=3"]) == 0
    said = capsys.readouterr().out
    assert "effective batch  4 views: 4 x 1 x 1" in said
    assert f"33 of 3 classes, at {IMG_SIZE} px" in said


def test_a_run_of_no_such_name_is_said(capsys: pytest.CaptureFixture) -> None:
    assert main(["train", "--run", "deit_tinny_distilled_in1k"]) == 2
    assert "nearest: deit_tiny_distilled_in1k" in capsys.readouterr().err


def test_all_are_listed_with_their_commands(capsys: pytest.CaptureFixture) -> None:
    assert main(["runs"]) == 0
    said = capsys.readouterr().out
    for name in RUNS:
        assert f"{name}\n" in said
    assert "student train --model deit_tiny_distilled_patch16_224 --distillation hard" in said
