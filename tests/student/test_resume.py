"""A run that is killed, anywhere, and started again is the run that was not."""

import dataclasses
import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support import begun, begun_as_two_ranks, tree, wait_until

from student import evaluate
from student.cli import main
from student.config import TrainConfig
from student.state import saved_updates
from student.step import Trainer
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.program.flags import RESUMABLE, flags_with
from teacher_cache.storage.store import Store

STEPS = 300
SHORT = "--steps=30"
MODEL = ("--model-kwargs", "patch_size=8", "embed_dim=48", "depth=2", "num_heads=3")


def words(output: Path, data: str, labels: str, *flags: str) -> list[str]:
    return [
        *("train", f"--data={data}", f"--labels={labels}", f"--output={output}", f"--val-data={data}"),
        *("--distillation=soft", f"--steps={STEPS}", "--batch-size=8", "--drop-path=0.1", "--model-ema"),
        *("--val-interval=20", "--checkpoint-interval=7", "--log-interval=5", "--device=cpu", *flags, *MODEL),
    ]


def run(arguments: list[str]) -> None:
    process = begun(main, arguments)
    process.join()
    assert process.exitcode == 0


def lines(output: Path) -> list[dict]:
    """Return the whole lines of a run's metrics, without what a clock says."""
    file = output / "metrics.jsonl"
    text = file.read_text().splitlines(keepends=True) if file.exists() else []
    found = [json.loads(line) for line in text if line.endswith("\n")]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in found]


def num_lines(output: Path) -> int:
    file = output / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def steps(output: Path) -> list[dict]:
    return [line for line in lines(output) if "step" in line]


def weights(output: Path) -> dict[str, bytes]:
    return {name: content for name, content in tree(output).items() if name.endswith(".safetensors")}


def until(is_met: Callable[[], object], process: multiprocessing.process.BaseProcess) -> None:
    wait_until(is_met, process.is_alive)


@pytest.fixture(scope="module")
def undisturbed(data: str, labels: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    run(words(output, data, labels))
    return output


@pytest.mark.kill
@pytest.mark.slow
@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.soak)])
def test_killed_again_and_again_it_is_the_undisturbed_run(
    kills: int, data: str, labels: str, undisturbed: Path, tmp_path: Path
) -> None:
    """Order, losses, evaluations and weights; each time with another number of workers."""
    output, rng = tmp_path / "run", random.Random(0)
    resumed = 0
    for kill in range(kills):
        flags = ("--resume=auto", f"--workers={kill % 2}")
        process = begun(main, words(output, data, labels, *flags))
        goal = len(steps(output)) + rng.randrange(14) if kill else 3
        until(lambda goal=goal: num_lines(output) > goal, process)  # type: ignore[misc]
        time.sleep(rng.uniform(0, 0.05))
        assert process.is_alive(), f"it was done before kill {kill}"
        process.kill()
        process.join()
        resumed += bool(saved_updates(Store(output)))
    assert resumed >= kills - 2
    run(words(output, data, labels, "--resume=auto", "--workers=2"))
    assert steps(output) == steps(undisturbed)
    assert len(saved_updates(Store(output))) == 2
    assert weights(output) == weights(undisturbed)


@pytest.mark.slow
def test_a_folder_has_one_run_at_a_time(
    data: str,
    labels: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("teacher_cache.storage.durable._BUSY_S", 0.1)
    output = tmp_path / "run"
    first = begun(main, words(output, data, labels))
    until(lambda: num_lines(output) > 3, first)
    assert main(words(output, data, labels, "--resume=auto")) == 2
    assert f"{output} is in use by another process" in capsys.readouterr().err
    first.kill()
    first.join()
    numbers = [line["step"] for line in steps(output) if "loss" in line]
    assert numbers == list(range(len(numbers)))


@pytest.mark.kill
@pytest.mark.slow
def test_two_ranks_that_are_killed_go_on_in_the_same_order(data: str, labels: str, tmp_path: Path) -> None:
    for output, kills in ((tmp_path / "whole", 0), (tmp_path / "killed", 3)):
        for kill in range(kills + 1):
            flags = ("--steps=60", "--resume=auto", f"--workers={kill % 2}")
            ranks = begun_as_two_ranks(main, words(output, data, labels, *flags))
            if kill < kills:
                until(lambda output=output, kill=kill: num_lines(output) > 12 * kill + 8, ranks[0])  # type: ignore[misc]
                for process in random.Random(kill).sample(ranks, 2):
                    process.kill()
            for process in ranks:
                process.join()
        assert [process.exitcode for process in ranks] == [0, 0]
    whole, killed = (steps(tmp_path / name) for name in ("whole", "killed"))
    assert [line.get("order") for line in killed] == [line.get("order") for line in whole]
    assert [line.get("loss") for line in killed] == pytest.approx([line.get("loss") for line in whole])


@pytest.mark.slow
def test_two_ranks_that_are_asked_to_stop_leave_one_whole_state(
    data: str, labels: str, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    ranks = begun_as_two_ranks(main, words(output, data, labels, "--checkpoint-interval=100000"))
    until(lambda: num_lines(output) > 20, ranks[0])
    for process in ranks:  # as torchrun passes it on
        assert process.pid is not None
        os.kill(process.pid, signal.SIGTERM)
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [130, 130]
    (saved,) = saved_updates(Store(output))
    assert steps(output)[-1]["step"] == saved - 1


@pytest.mark.slow
@pytest.mark.parametrize("which", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.soak)])
def test_asked_to_stop_it_finishes_its_update_and_saves(
    which: signal.Signals, data: str, labels: str, undisturbed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    never_due = "--checkpoint-interval=100000"
    process = begun(main, words(output, data, labels, never_due))
    until(lambda: num_lines(output) > 20, process)
    assert process.pid is not None
    os.kill(process.pid, which)
    process.join()
    assert process.exitcode == 130
    (saved,) = saved_updates(Store(output))
    assert 20 < saved < STEPS
    assert steps(output)[-1]["step"] == saved - 1
    run(words(output, data, labels, never_due, "--resume=auto"))
    assert steps(output) == steps(undisturbed)
    ends = [tree(folder)["last.safetensors"] for folder in (output, undisturbed)]
    assert ends[0] == ends[1]


def at_update(number: int, do: Callable[[Trainer], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have something done at the beginning of an update."""
    update = Trainer.update

    def disturbed(self: Trainer, batches: object) -> object:
        if self.updates == number:
            do(self)
        return update(self, batches)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "update", disturbed)


def poison(trainer: Trainer) -> None:
    trainer.objective = dataclasses.replace(trainer.objective, tau=float("nan"))


def take_all_memory(trainer: Trainer) -> None:
    torch.empty(2**50, dtype=torch.uint8, device=trainer.ranks.device)


def fail(trainer: Trainer) -> None:
    raise RuntimeError(f"something else, after {trainer.updates} updates")


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_saves_and_names_samples(
    data: str,
    labels: str,
    dataset: PackedDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    output = tmp_path / "run"
    at_update(9, poison, monkeypatch)
    assert main(words(output, data, labels, SHORT)) == 1
    said = capsys.readouterr().err
    named = json.loads((output / "non-finite-0.json").read_text())
    assert named["update"] == 9
    assert len(named["keys"]) == 8
    assert set(named["keys"]) <= {dataset.index.key(row) for row in range(len(dataset))}
    assert "the loss of update 9 is not finite" in said
    assert named["keys"][0] in said
    assert "lower --lr" in said
    assert saved_updates(Store(output))[-1] == 9
    assert steps(output)[-1]["step"] == 8
    monkeypatch.undo()
    assert main(words(output, data, labels, SHORT, "--resume=auto")) == 0


def test_flags_that_may_change_when_a_run_goes_on_are_pinned() -> None:
    assert set(flags_with(TrainConfig, RESUMABLE)) == {
        "output",
        "cache_dir",
        "cache_gib",
        "data",
        "labels",
        "follow",
        "follow_timeout_s",
        "recipe",
        "img_size",
        "val_data",
        "resume",
        "dry_run",
        "pretrained",
        "finetune",
        "teacher_checkpoint",
        "teacher_prompts",
        "teacher_class_map",
        "device",
        "workers",
        "torchcompile",
        "batch_size",
        "grad_accum_steps",
        "ray",
        "ray_ranks",
        "log_interval",
        "tensorboard",
        "log_wandb",
        "wandb_project",
        "val_interval",
        "crop_pct",
        "checkpoint_interval",
        "checkpoint_hist",
        "push_to_hub",
        "ray_address",
        "images_in",
        "key",
        "manifest",
    }


def test_what_is_seen_late_is_not_saved(
    data: str, labels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU a loss is looked at some updates later, when weights were made from it."""
    output = tmp_path / "run"
    at_update(9, poison, monkeypatch)
    monkeypatch.setattr("torch.isfinite", lambda values: torch.ones_like(values, dtype=torch.bool))
    flags = (SHORT, "--checkpoint-interval=7", "--log-interval=100")
    assert main(words(output, data, labels, *flags)) == 1
    assert saved_updates(Store(output)) == [7]
    assert json.loads((output / "non-finite-0.json").read_text())["update"] == 9
    assert steps(output)[-1]["step"] == 8


@pytest.mark.slow
def test_a_run_that_is_done_stays_as_it_is(data: str, labels: str, undisturbed: Path) -> None:
    before = tree(undisturbed)
    assert main(words(undisturbed, data, labels, "--resume=auto")) == 0
    assert tree(undisturbed) == before


@pytest.mark.slow
def test_an_evaluation_that_fails_is_done_again(
    data: str, labels: str, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"

    def stop_at_the_second(*_: object, **__: object) -> dict[str, float]:
        if len(lines(output)) < 100:
            return accuracy(*_, **__)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    accuracy = evaluate.accuracy
    monkeypatch.setattr("student.loop.accuracy", stop_at_the_second)
    assert main(words(output, data, labels)) == 130
    monkeypatch.undo()
    run(words(output, data, labels, "--resume=auto"))
    scored = [[line for line in steps(folder) if "accuracy" in line] for folder in (output, undisturbed)]
    assert scored[0] == scored[1]


@pytest.mark.slow
def test_memory_that_runs_out_says_what_to_lower(
    data: str, labels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    at_update(4, take_all_memory, monkeypatch)
    assert main(words(tmp_path / "run", data, labels, SHORT)) == 1
    said = capsys.readouterr().err
    assert "out of memory after 4 updates" in said
    assert "the newest state is that after 4 updates" in said
    assert "--batch-size 4 --grad-accum-steps 2, which makes the same updates" in said
    monkeypatch.undo()
    flags = ("--resume=auto", "--batch-size=4", "--grad-accum-steps=2")
    assert main(words(tmp_path / "run", data, labels, SHORT, *flags)) == 0


def test_any_other_error_leaves_a_state_too(
    data: str, labels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_update(11, fail, monkeypatch)
    with pytest.raises(RuntimeError, match="something else"):
        main(words(tmp_path / "run", data, labels))
    assert saved_updates(Store(tmp_path / "run"))[-1] == 11


@pytest.fixture
def stopped(data: str, labels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that ended after eleven updates."""
    at_update(11, fail, monkeypatch)
    with pytest.raises(RuntimeError):
        main(words(tmp_path / "run", data, labels, SHORT))
    monkeypatch.undo()
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--lr=0.5",), "lr: None then, 0.5 now"),
        (("--batch-size=4",), "views of an update: 8 then, 4 now"),
        (("--views=0:2",), "views: "),
        (("--seed=1",), "seed: 0 then, 1 now"),
        (("--resume=never",), "go on with that run: --resume auto"),
    ],
)
def test_another_run_is_not_gone_on_with(
    flags: tuple[str, ...],
    message: str,
    stopped: Path,
    data: str,
    labels: str,
    capsys: pytest.CaptureFixture,
) -> None:
    before = tree(stopped)
    assert main(words(stopped, data, labels, SHORT, "--resume=auto", *flags)) == 2
    assert message in capsys.readouterr().err
    assert tree(stopped) == before


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"no tensors", None])
def test_a_damaged_state_is_said(
    content: bytes | None, stopped: Path, data: str, labels: str, capsys: pytest.CaptureFixture
) -> None:
    state = stopped / "state-00000011.safetensors"
    state.write_bytes(state.read_bytes()[:-1] if content is None else content)
    assert main(words(stopped, data, labels, SHORT, "--resume=auto")) == 2
    said = capsys.readouterr().err
    assert f"{state} is not a state of a run" in said
    state.unlink()
    assert main(words(stopped, data, labels, SHORT, "--resume=auto")) == 0
