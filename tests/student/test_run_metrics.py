"""What a run tells of itself: lines, TensorBoard, Weights & Biases, and the page of several runs."""

import json
import re
from pathlib import Path

import pytest

from student.cli import main
from student.step import Trainer

SMALL = ("--model-kwargs", "patch_size=8", "embed_dim=48", "depth=1", "num_heads=3")


def train(output: Path, data: str, labels: str, *flags: str) -> list[dict]:
    words = ["train", f"--data={data}", f"--labels={labels}", f"--output={output}", "--distillation=hard"]
    assert main([*words, "--steps=6", "--batch-size=8", *flags, *SMALL]) == 0
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def test_a_line_tells_the_losses_apart_and_the_agreement(data: str, labels: str, tmp_path: Path) -> None:
    lines = train(tmp_path / "run", data, labels, f"--val-data={data}", "--val-interval=1", "--model-ema")
    steps = [line for line in lines if "loss" in line]
    assert len(steps) == 6
    for line in steps:
        assert line["loss"] == pytest.approx((line["loss_label"] + line["loss_distillation"]) / 2)
        assert 0 <= line["agreement"] <= 1
        assert re.fullmatch("[0-9a-f]{8}", line["order"])
    assert len({line["order"] for line in steps}) == 6
    stamps = [line["seconds"] for line in steps]
    assert stamps == sorted(set(stamps)), "an update is stamped when it happens, not when it is logged"
    scored = [line for line in lines if "accuracy" in line]
    assert [line["step"] for line in scored] == [3, 5]
    assert set(scored[0]["accuracy"]) == set(scored[0]["ema_accuracy"])
    result = lines[-1]["result"]
    assert 0 <= result["data_wait_s"] <= result["seconds"]
    assert result["accuracy"] == scored[-1]["accuracy"]


def test_losses_are_read_by_time_where_few_updates_are_made(
    data: str, labels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("student.loop._LOG_EVERY_S", 0.0)
    seen: list[int] = []
    update = Trainer.update

    def watched(self: Trainer, batches: list) -> list:
        file = tmp_path / "run" / "metrics.jsonl"
        seen.append(file.read_bytes().count(b"\n") if file.exists() else 0)
        return update(self, batches)

    monkeypatch.setattr(Trainer, "update", watched)
    train(tmp_path / "run", data, labels, "--log-interval=100")
    assert seen[1:] == [1, 2, 3, 4, 5]


def test_tensorboard_has_the_same_numbers(data: str, labels: str, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    lines = train(tmp_path / "run", data, labels, "--tensorboard", f"--val-data={data}")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    losses = [line["loss"] for line in lines if "loss" in line]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(losses)
    assert len(events.Scalars("accuracy/both_softmax")) == 1


@pytest.mark.slow
def test_weights_and_biases_gets_them_too(
    data: str, labels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline: its own program writes the run's file, as it would be sent."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(tmp_path / "run", data, labels, "--log-wandb", "--wandb-project=tried")
    (file,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    content = file.read_bytes()
    assert b"loss_distillation" in content
    assert b"tried" in content


@pytest.mark.slow
def test_one_page_tells_of_several_runs(
    data: str, labels: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for name, tau in (("one", "1"), ("<two>", "3")):
        train(tmp_path / name, data, labels, f"--distillation-tau={tau}", f"--val-data={data}")
    runs = [str(tmp_path / name) for name in ("one", "<two>")]
    capsys.readouterr()
    assert main(["report", *runs, "--out", str(tmp_path / "page.html")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert '<th scope="row">distillation_tau</th><td>1.0</td><td>3.0</td>' in page
    assert '<th scope="row">updates</th><td>6</td><td>6</td>' in page
    assert "&lt;two&gt;" in page
    assert "<two>" not in page
    assert page.count("data:image/png") == 6
    assert "http" not in page


def test_a_folder_that_is_no_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["report", str(tmp_path), "--out", str(tmp_path / "page.html")]) == 2
    assert "has no metrics.jsonl" in capsys.readouterr().err
