"""Students of two teachers of the digits, against students of either alone, in the demo's setting.

    python -m benchmarks.experiments.two_teachers --out two-teachers --json two-teachers.json

Two teachers are trained and their labels extracted as the demo does; every arm is trained with every seed.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta
from rich.console import Console
from rich.table import Table

from benchmarks.machine import write_result
from pipelines.demo.run import (
    DemoSize,
    digits_student,
    digits_training,
    extract_labels,
    pack_digits,
    train_teacher,
)
from student.loop import LAST_FILE
from student.train import train
from teacher_cache.errors import InputError
from teacher_cache.program.commandline import Command, run_single
from teacher_cache.program.flags import Flags
from teacher_cache.program.progress import console

TEACHERS = {"a": "regnety_002", "b": "resnet10t"}
ARMS = {"a": ("a",), "b": ("b",), "a and b": ("a", "b")}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoTeachersConfig(Flags):
    """Train students of two teachers of the digits, together and of either alone."""

    out: str = "two-teachers"
    """New folder for datasets, teachers, labels and students."""
    seeds: Annotated[int, Meta(ge=1)] = 3
    """Students of each arm."""
    teacher_epochs: Annotated[int, Meta(ge=1)] = DemoSize.teacher_epochs
    """Passes of each teacher over the digits."""
    student_epochs: Annotated[int, Meta(ge=1)] = DemoSize.student_epochs
    """Passes of each student over the digits."""
    losses: tuple[Literal["hard", "soft"], ...] = ("hard", "soft")
    """Losses of the students."""
    json: str | None = None
    """File for the result."""


def run_experiment(config: TwoTeachersConfig) -> dict[str, Any]:
    """Run everything, and return the accuracies in per cent: of teachers, and of students by loss and arm.

    Raises:
        InputError: The folder is not empty.
    """
    out = Path(config.out)
    if out.exists() and any(out.iterdir()):
        raise InputError(f"--out {out} is not empty", "It would be lost.", "choose a new folder")
    out.mkdir(parents=True, exist_ok=True)
    size = DemoSize(teacher_epochs=config.teacher_epochs, student_epochs=config.student_epochs)
    pack_digits(out, console)
    training = digits_training(out, size)
    teachers = {}
    for name, model in TEACHERS.items():
        trained = train_teacher(out, model, training, size, console, f"teacher-{name}")
        teachers[name] = 100 * trained.accuracy["class"]
        weights = str(out / f"teacher-{name}" / LAST_FILE)
        extract_labels(out, model, weights, f"labels-{name}", size, console)
    students: dict[str, dict[str, list[float]]] = {loss: {arm: [] for arm in ARMS} for loss in config.losses}
    for seed in range(config.seeds):
        for loss in config.losses:
            for arm, members in ARMS.items():
                student = dataclasses.replace(
                    digits_student(training, size),
                    output=str(out / f"student-{loss}-{'-'.join(members)}-{seed}"),
                    distillation=loss,
                    labels=tuple(str(out / f"labels-{name}") for name in members),
                    seed=seed,
                )
                accuracy = train(student, console).accuracy
                students[loss][arm].append(100 * accuracy.get("both_softmax", accuracy["class"]))
    return {"teachers": teachers, "students": students}


def _experiment(config: TwoTeachersConfig) -> int:
    """Run the experiment, print its table, and return 0."""
    found = run_experiment(config)
    title = "Accuracy on validation digits, per cent: mean, standard deviation, each seed"
    table = Table("loss", "labels", "mean", "sd", "seeds", title=title)
    for name, accuracy in found["teachers"].items():
        table.add_row("", f"teacher {name}: {TEACHERS[name]}", f"{accuracy:.1f}", "", "")
    for loss, by_arm in found["students"].items():
        for arm, values in by_arm.items():
            spread = f"{statistics.stdev(values):.1f}" if len(values) > 1 else ""
            table.add_row(
                loss, arm, f"{statistics.mean(values):.1f}", spread, " ".join(f"{v:.1f}" for v in values)
            )
    Console(width=100).print(table)
    write_result(config.json, "two teachers", config, found, ("torch", "timm", "numpy"))
    return 0


if __name__ == "__main__":
    sys.exit(
        run_single(
            "python -m benchmarks.experiments.two_teachers",
            Command(TwoTeachersConfig, _experiment),
            sys.argv[1:],
        )
    )
