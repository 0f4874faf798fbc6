"""Several processes are one: two ranks of a batch train as one rank of twice the batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from student.cli import main

STEPS = 6
MODEL = ("--model-kwargs", "patch_size=8", "embed_dim=48", "depth=2", "num_heads=3")


def words(output: Path, data: str, labels: str, batch_size: int, *flags: str) -> list[str]:
    return [
        *("train", f"--data={data}", f"--labels={labels}", f"--output={output}", f"--val-data={data}"),
        *("--distillation=hard", f"--steps={STEPS}", f"--batch-size={batch_size}", "--lr=0.001"),
        *("--model-ema", "--device=cpu", *flags, *MODEL),
    ]


def lines(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def losses(output: Path) -> list[float]:
    return [line["loss"] for line in lines(output) if "loss" in line]


@pytest.fixture(scope="module")
def alone(data: str, labels: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process, with 16 views an update."""
    output = tmp_path_factory.mktemp("alone") / "run"
    assert main(words(output, data, labels, 16)) == 0
    return output


def is_the_same_run(output: Path, alone: Path) -> None:
    assert losses(output) == pytest.approx(losses(alone), rel=1e-5)
    assert len(losses(output)) == STEPS
    result, expected = (lines(run)[-1]["result"] for run in (output, alone))
    for name in ("accuracy", "ema_accuracy", "images", "steps"):
        assert result[name] == expected[name]


def torchrun(arguments: list[str], ranks: int = 2) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [*command, "-m", "student.cli", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.slow
def test_two_ranks_of_torchrun(data: str, labels: str, alone: Path, tmp_path: Path) -> None:
    torchrun(words(tmp_path / "run", data, labels, 8))
    is_the_same_run(tmp_path / "run", alone)


@pytest.mark.slow
def test_two_workers_of_ray_train(
    data: str, labels: str, alone: Path, ray_address: str, tmp_path: Path
) -> None:
    flags = ("--ray", "--ray-ranks=2", f"--ray-address={ray_address}")
    assert main(words(tmp_path / "run", data, labels, 8, *flags)) == 0
    is_the_same_run(tmp_path / "run", alone)


def test_accumulation_is_a_larger_batch(data: str, labels: str, alone: Path, tmp_path: Path) -> None:
    assert main(words(tmp_path / "run", data, labels, 4, "--grad-accum-steps=4")) == 0
    is_the_same_run(tmp_path / "run", alone)
