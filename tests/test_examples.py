"""The examples as programs: with their flags, any size of image, each start method, and evaluation."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tyro
from support import extract_flags

from pipelines.cli import main

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted(file.stem for file in (ROOT / "examples").glob("*.py"))
FAST = ("own_trainer", "torchrun_loop", "hf_trainer")
STARTED_BY = (
    "import multiprocessing, runpy, sys; multiprocessing.set_start_method(sys.argv.pop(1)); "
    "sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"
)


def run(name: str, *flags: object, start_method: str = "fork") -> str:
    words = [sys.executable, "-c", STARTED_BY, start_method, f"examples/{name}.py", *map(str, flags)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def odd_labels(data: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Labels of views of 40 px, which a patch size of 16 does not divide."""
    target = tmp_path_factory.mktemp("odd") / "labels"
    assert main(extract_flags(data, target, img_size=40, views="0:2")) == 0
    return str(target)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [name if name in FAST else pytest.param(name, marks=pytest.mark.soak) for name in EXAMPLES],
)
def test_an_example_has_help_and_trains_and_evaluates_views_of_an_odd_size(
    name: str, data: str, odd_labels: str, tmp_path: Path
) -> None:
    method = ("fork", "spawn", "forkserver")[EXAMPLES.index(name) % 3]
    flags = ["--epochs", 2, "--batch-size", 8, "--workers", 1, "--val-data", data]
    flags += [] if name == "own_trainer" else ["--output", tmp_path / "out"]
    printed = run(name, data, odd_labels, *flags, start_method=method)
    found = [float(number) for number in re.findall(r"accuracy\W+([0-9.]+)", printed)]
    assert found
    assert 0 <= found[-1] <= 100
    losses = re.findall(r"[0-9]+\.[0-9]+", printed.splitlines()[-1])
    assert len(losses) == 2 * (33 // 8)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_tells_its_flags(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    example = importlib.import_module(f"examples.{name}")
    with pytest.raises(SystemExit):
        tyro.cli(getattr(example, "Options", example.train), args=["--help"])
    printed = capsys.readouterr().out
    for flag in ("DATA", "LABELS", "--epochs", "--batch-size", "--workers", "--val-data"):
        assert flag in printed or flag.lower() in printed.lower()
