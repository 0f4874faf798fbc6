"""A run that is killed, anywhere, and started again is the run that was not."""

import json
import multiprocessing
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import tree

from student.cli import main
from student.state import saved_updates
from teacher_cache.store import Store

STEPS = 300
KILLS = 20
_PATIENCE_S = 120.0
MODEL = ("--model-kwargs", "patch_size=8", "embed_dim=48", "depth=2", "num_heads=3")

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["student.loop", "student.cli", "conftest", "pandas", "numba.np.arraymath"])


def words(output: Path, data: str, labels: str, *flags: str) -> list[str]:
    return [
        *("train", f"--data={data}", f"--labels={labels}", f"--output={output}", f"--val-data={data}"),
        *("--distillation=soft", f"--steps={STEPS}", "--batch-size=8", "--drop-path=0.1", "--model-ema"),
        *("--val-interval=20", "--checkpoint-interval=7", "--log-interval=5", "--device=cpu", *flags, *MODEL),
    ]


def run_in_a_thread_of_its_own(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of what renders: as where a shell started this
    sys.exit(main(arguments))


def begun(arguments: list[str]) -> multiprocessing.process.BaseProcess:
    process = processes.Process(target=run_in_a_thread_of_its_own, args=(arguments,))
    process.start()
    return process


def run(arguments: list[str]) -> None:
    process = begun(arguments)
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
    end_s = time.monotonic() + _PATIENCE_S
    while not is_met() and process.is_alive():
        assert time.monotonic() < end_s
        time.sleep(0.005)


@pytest.fixture(scope="module")
def undisturbed(data: str, labels: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    run(words(output, data, labels))
    return output


def test_killed_twenty_times_it_is_the_undisturbed_run(
    data: str, labels: str, undisturbed: Path, tmp_path: Path
) -> None:
    """Order, losses, evaluations and weights; each time with another number of workers."""
    output, rng = tmp_path / "run", random.Random(0)
    resumed = 0
    for kill in range(KILLS):
        flags = ("--resume=auto", f"--workers={kill % 2}")
        process = begun(words(output, data, labels, *flags))
        goal = len(steps(output)) + rng.randrange(14) if kill else 3
        until(lambda goal=goal: num_lines(output) > goal, process)  # type: ignore[misc]
        time.sleep(rng.uniform(0, 0.05))
        assert process.is_alive(), f"it was done before kill {kill}"
        process.kill()
        process.join()
        resumed += bool(saved_updates(Store(output)))
    assert resumed >= KILLS - 2
    run(words(output, data, labels, "--resume=auto", "--workers=2"))
    assert steps(output) == steps(undisturbed)
    assert len(saved_updates(Store(output))) == 2
    assert weights(output) == weights(undisturbed)
