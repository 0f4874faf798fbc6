"""Time of a student that follows the job which makes its labels, beside the job's own time.

    python -m benchmarks.follow

The teacher takes twice the student's time for the same views: it pauses after each batch, as if it ran on a
device of its own. A student begins with the job, and ends within some percent of the job's own time, measured
without a student. A student of a finished archive is timed with --follow and without, in turn.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
from msgspec import Meta

from benchmarks.common import report_figures
from pipelines.demo.digits import SIDE_PX, write_digits
from teacher_cache import TeacherModel
from teacher_cache.errors import TeacherCacheError
from teacher_cache.program.commandline import Command, run_single
from teacher_cache.program.flags import Flags

_ROOT = Path(__file__).parents[1]
_BATCH, _SHARD = 64, 128
_STUDENT = ("patch_size=8", "embed_dim=96", "depth=4", "num_heads=3", f"img_size={SIDE_PX}")
_PAUSE_VARIABLE = "BENCHMARK_PAUSE_S"


@dataclasses.dataclass(frozen=True)
class FollowConfig(Flags):
    """Time a student that follows its teacher."""

    views: Annotated[int, Meta(ge=2)] = 20
    """Views, and epochs of the student."""
    repeats: Annotated[int, Meta(ge=1)] = 4
    """Turns of each measurement; with an even number each order of a pair is met as often."""
    json: str | None = None
    """File for the figures as JSON."""


class PausingTeacher(torch.nn.Module):
    """Classifier that pauses after each batch.

    Args:
        pause_s: Seconds of a pause.
    """

    def __init__(self, pause_s: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.model, self.pause_s = timm.create_model("regnety_002", num_classes=10), pause_s

    def forward(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """Return logits (B, 10)."""
        logits_BC = self.model(pixels_BCHW)
        time.sleep(self.pause_s)
        return logits_BC


def teacher(**_: Any) -> TeacherModel:
    """Return the teacher whose pause the environment tells."""
    pause_s = float(os.environ[_PAUSE_VARIABLE])
    return TeacherModel(name="pausing", module=PausingTeacher(pause_s), num_classes=10)


def run(config: FollowConfig) -> int:
    """Measure, print a table, and return 0."""
    folder = Path(tempfile.mkdtemp(prefix="follow-"))
    try:
        figures = _measured(config, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    title = "A student beside the job that makes its labels"
    report_figures(title, figures, config, ("teacher-cache", "torch", "timm"))
    return 0


def _measured(config: FollowConfig, folder: Path) -> dict[str, Any]:
    write_digits(folder / "images")
    data, finished = folder / "data", folder / "finished"
    pack = ["pipelines.cli", "pack", str(folder / "images" / "train"), str(data), "--shard-size", str(_SHARD)]
    _wait(_begun(pack, 0.0))
    job_s = _seconds(_begun(_extract(config, data, finished), 0.0))
    plain: list[float] = []
    following: list[float] = []
    for turn in range(config.repeats):
        for flags in (("--follow",), ())[:: -1 if turn % 2 else 1]:  # the machine's drift meets both
            seconds = _student_s(
                config, data, finished, folder / f"{'follow' if flags else 'plain'}{turn}", *flags
            )
            (following if flags else plain).append(seconds)
    student_s = statistics.median(plain)
    rows = sum(1 for _ in (folder / "images" / "train").rglob("*.png"))
    batches = config.views * sum(-(-min(_SHARD, rows - start) // _BATCH) for start in range(0, rows, _SHARD))
    start_up_s = job_s - _views_s(finished)
    pause_s = max(0.0, (2 * student_s - _views_s(finished)) / batches)
    alone, together = [], []
    for turn in range(config.repeats):
        out = folder / f"alone{turn}"
        alone.append(_seconds(_begun(_extract(config, data, out), pause_s)))
        out = folder / f"both{turn}"
        job = _begun(_extract(config, data, out), pause_s)
        student = _begun(_train(config, data, out, folder / f"run{turn}", "--follow"), 0.0)
        together.append(_seconds(student))
        _wait(job)
    ratios = [both / own for both, own in zip(together, alone, strict=True)]
    costs = [with_it / without for with_it, without in zip(following, plain, strict=True)]
    return {
        "views": config.views,
        "student alone, s": round(student_s, 1),
        "teacher's views, s": round(2 * student_s, 1),
        "start of the job, s": round(start_up_s, 1),
        "job alone, s": [round(each, 1) for each in alone],
        "student with --follow, s": [round(each, 1) for each in together],
        "student's end over the job's own time": _spread(ratios),
        "finished archive, --follow over plain": _spread(costs),
    }


def _spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def _extract(config: FollowConfig, data: Path, out: Path) -> list[str]:
    return [
        *("pipelines.cli", "extract", f"--data={data}", f"--out={out}", "--followed", "--device=cpu"),
        *("--teacher=python:benchmarks.follow:teacher", f"--views=0:{config.views}", "--topk=5"),
        *(f"--img-size={SIDE_PX}", f"--batch-size={_BATCH}", "--affinity=none", "--allow-disagreement"),
        *("--recipe=rrc",),
    ]


def _train(config: FollowConfig, data: Path, labels: Path, output: Path, *flags: str) -> list[str]:
    return [
        *("student.cli", "train", f"--data={data}", f"--labels={labels}", f"--output={output}", *flags),
        *("--distillation=soft", "--tail=uniform", f"--epochs={config.views}", f"--batch-size={_BATCH}"),
        *("--device=cpu", "--model-kwargs", *_STUDENT),
    ]


def _student_s(config: FollowConfig, data: Path, labels: Path, output: Path, *flags: str) -> float:
    """Return the seconds of a student's updates, without the start of its process."""
    _wait(_begun(_train(config, data, labels, output, *flags), 0.0))
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return json.loads(lines[-1])["result"]["seconds"]


def _views_s(archive: Path) -> float:
    """Return the seconds that a job took for its views, from the report of its run."""
    (report,) = archive.with_name(f"{archive.name}.runs").glob("*/report.json")
    return json.loads(report.read_text())["actual"]["hours"] * 3600


def _begun(words: list[str], pause_s: float) -> subprocess.Popen[bytes]:
    changes = {"OMP_NUM_THREADS": "1", _PAUSE_VARIABLE: str(pause_s), "PYTHONPATH": str(_ROOT)}
    command = [sys.executable, "-m", *words]
    return subprocess.Popen(command, env={**os.environ, **changes}, stderr=subprocess.DEVNULL)


def _wait(process: subprocess.Popen[bytes]) -> None:
    if process.wait() != 0:
        raise TeacherCacheError(f"{' '.join(map(str, process.args))} ended with {process.returncode}")  # type: ignore[arg-type]


def _seconds(process: subprocess.Popen[bytes]) -> float:
    begun_s = time.monotonic()
    _wait(process)
    return time.monotonic() - begun_s


if __name__ == "__main__":
    sys.exit(run_single("python -m benchmarks.follow", Command(FollowConfig, run), sys.argv[1:]))
