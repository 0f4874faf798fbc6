"""Steps of the demo: pack, train a teacher, extract its labels, train three equal students."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

from pipelines.demo.digits import SIDE_PX, write_digits
from pipelines.extraction.flags import ExtractConfig
from pipelines.extraction.planning.estimate import ExtractReport
from pipelines.extraction.running.extract import extract
from student.config import TrainConfig
from student.loop import LAST_FILE
from student.metrics import METRICS_FILE, RunResult
from student.train import train
from teacher_cache.dataset.packing.pack import PackOptions, pack
from teacher_cache.dataset.sources.open import open_source
from teacher_cache.errors import InputError
from teacher_cache.program.progress import Track
from teacher_cache.storage.store import Store

RECIPE = str(Path(__file__).with_name("digits.yaml"))
TEACHER = "regnety_002"
STUDENT = "deit_tiny_distilled_patch16_224"
STUDENT_KWARGS = ("patch_size=8", "embed_dim=96", "depth=4", "num_heads=3")
COMPARED_STEPS = 50
_MARKER = ".teacher-cache-demo"


@dataclasses.dataclass(frozen=True)
class DemoSize:
    """Settings that determine the duration of the demo."""

    teacher_epochs: int = 12
    student_epochs: int = 20
    views: int = 8
    batch_size: int = 64


@dataclasses.dataclass(frozen=True)
class DemoResult:
    """Results of the demo.

    Attributes:
        teacher: Result of the teacher's own training.
        extraction: Report of the extraction of the labels.
        students: Results of the students by name: "no teacher", "live teacher", "cached labels".
        curves: Loss of each step, by student name.
        loss_gap: Largest relative difference of the live and the cached student's losses, first 50 steps.
    """

    teacher: RunResult
    extraction: ExtractReport
    students: dict[str, RunResult]
    curves: dict[str, list[float]]
    loss_gap: float


def run_demo(out: Path, size: DemoSize, track: Track) -> DemoResult:
    """Run the demo in a folder, which is emptied first if an earlier demo made it.

    Raises:
        InputError: The folder holds files of something else.
    """
    marker = out / _MARKER
    if marker.exists():
        shutil.rmtree(out)
    elif out.exists() and any(out.iterdir()):
        raise InputError(f"--out {out} is not empty", "It would be lost.", "choose a new folder")
    out.mkdir(parents=True, exist_ok=True)
    marker.touch()
    pack_digits(out, track)
    training = digits_training(out, size)
    teacher = train_teacher(out, TEACHER, training, size, track)
    weights = str(out / "teacher" / LAST_FILE)
    extraction = extract_labels(out, TEACHER, weights, "labels", size, track)
    student = digits_student(training, size)
    same_views = dataclasses.replace(student, recipe=RECIPE, img_size=SIDE_PX)
    students = {
        "no teacher": dataclasses.replace(same_views, output=str(out / "none")),
        "live teacher": dataclasses.replace(
            same_views,
            output=str(out / "live"),
            distillation="hard",
            teacher=TEACHER,
            teacher_checkpoint=weights,
        ),
        "cached labels": dataclasses.replace(
            student, output=str(out / "cached"), distillation="hard", labels=(str(out / "labels"),)
        ),
    }
    results = {name: train(config, track) for name, config in students.items()}
    curves = {name: read_losses(Path(config.output)) for name, config in students.items()}
    return DemoResult(
        teacher, extraction, results, curves, _gap(curves["live teacher"], curves["cached labels"])
    )


def pack_digits(out: Path, track: Track) -> None:
    """Write the digits as class folders, and pack them as OUT/train and OUT/val."""
    write_digits(out / "images")
    for split in ("train", "val"):
        pack(
            open_source(str(out / "images" / split)),
            Store(out / split),
            PackOptions(shard_size=500, workers=2),
            track,
        )


def digits_training(out: Path, size: DemoSize) -> TrainConfig:
    """Return what all runs on the digits share."""
    return TrainConfig(
        data=str(out / "train"),
        val_data=str(out / "val"),
        output="",
        batch_size=size.batch_size,
        crop_pct=1.0,
        warmup_epochs=2,
        lr=2e-3,
        log_interval=10,
    )


def digits_student(training: TrainConfig, size: DemoSize) -> TrainConfig:
    """Return the flags of a student, without its teacher."""
    return dataclasses.replace(
        training,
        model=STUDENT,
        model_kwargs=STUDENT_KWARGS,
        epochs=size.student_epochs,
        views=f"0:{size.views}",
    )


def train_teacher(
    out: Path, model: str, training: TrainConfig, size: DemoSize, track: Track, name: str = "teacher"
) -> RunResult:
    """Train a timm model on the digits, into OUT/NAME."""
    config = dataclasses.replace(
        training,
        output=str(out / name),
        model=model,
        epochs=size.teacher_epochs,
        recipe=RECIPE,
        img_size=SIDE_PX,
    )
    return train(config, track)


def extract_labels(
    out: Path, model: str, weights: str, name: str, size: DemoSize, track: Track
) -> ExtractReport:
    """Extract a teacher's labels of the digits, into OUT/NAME."""
    config = ExtractConfig(
        data=str(out / "train"),
        teacher=model,
        checkpoint=weights,
        out=str(out / name),
        recipe=RECIPE,
        views=f"0:{size.views}",
        topk=5,
    )
    return extract(config, track)


def read_losses(run: Path) -> list[float]:
    """Return the loss of each step of a training run."""
    lines = (json.loads(line) for line in (run / METRICS_FILE).read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


def _gap(ours: list[float], theirs: list[float]) -> float:
    pairs = zip(ours[:COMPARED_STEPS], theirs[:COMPARED_STEPS], strict=True)
    return max(abs(a - b) / abs(b) for a, b in pairs)
