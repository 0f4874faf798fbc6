"""Arms of the experiment as data: student, loss and teacher of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

Teaching = Literal["none", "stored", "live", "mixed labels"]

ONE_HEAD = "deit_tiny_patch16_224"
TWO_HEADS = "deit_tiny_distilled_patch16_224"


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A model that is trained to teach."""

    name: str
    model: str
    model_kwargs: tuple[str, ...]
    epochs: int


@dataclasses.dataclass(frozen=True)
class Setting:
    """Size of the experiment.

    Attributes:
        num_images: Training images of the students, the first of the dataset.
        epochs: Epochs of the students; as many views of each image are labelled.
        batch_size: Batch size of students and teachers.
        lr: Peak learning rate of students and teachers.
        student_kwargs: Arguments of the students' model.
        convnet, transformer: Teachers, trained on all training images.
        parallel: Runs at a time.
        threads: Threads of each run, on a CPU.
    """

    num_images: int
    epochs: int
    batch_size: int
    lr: float
    student_kwargs: tuple[str, ...]
    convnet: Teacher
    transformer: Teacher
    parallel: int
    threads: int


SETTINGS = {
    "cpu": Setting(
        num_images=4_000,
        epochs=30,
        batch_size=128,
        lr=2e-3,
        student_kwargs=("patch_size=8", "embed_dim=96", "depth=4", "num_heads=3"),
        convnet=Teacher("convnet", "regnety_002", (), 6),
        transformer=Teacher(
            "transformer", ONE_HEAD, ("patch_size=8", "embed_dim=96", "depth=6", "num_heads=3"), 12
        ),
        parallel=2,
        threads=1,
    ),
    "gpu": Setting(
        num_images=50_000,
        epochs=300,
        batch_size=1_024,
        lr=1e-3,
        student_kwargs=("patch_size=4",),
        convnet=Teacher("convnet", "regnety_016", (), 100),
        transformer=Teacher("transformer", ONE_HEAD, ("patch_size=4",), 300),
        parallel=1,
        threads=8,
    ),
}


@dataclasses.dataclass(frozen=True)
class Arm:
    """Training of a student, repeated with each seed.

    Attributes:
        name: Name of the arm in the tables.
        model: Model of the student, with one head or two.
        distillation: Term of the teacher, as in `student train --distillation`.
        alpha, tau: Weight and temperature of the teacher's term; the paper's soft runs take 0.1 and 3.0.
        teaching: Source of the labels.
        teacher: Teacher of the labels.
        topk: Classes of a stored label; None is all.
        views: Views of each image; None is one an epoch.
        only_first_seed: Whether the arm runs with the first seed alone.
    """

    name: str
    model: str = TWO_HEADS
    distillation: Literal["none", "soft", "hard"] = "hard"
    alpha: float = 0.5
    tau: float = 3.0
    teaching: Teaching = "stored"
    teacher: Literal["convnet", "transformer"] = "convnet"
    topk: int | None = None
    views: int | None = None
    only_first_seed: bool = False


HARD_TOKEN = "hard, token"
SOFT_TOKEN = "soft, token"
LIVE = "hard, token, live teacher"


def arms(num_classes: int, num_views: int) -> Sequence[Arm]:
    """Return all arms; k classes only if k < `num_classes`, and n views only if n < `num_views`."""
    soft_token = Arm(SOFT_TOKEN, distillation="soft", tau=1.0)
    return (
        Arm("no distillation", ONE_HEAD, "none", teaching="none"),
        Arm("soft, usual", ONE_HEAD, "soft", alpha=0.1, tau=3.0),
        Arm("hard, usual", ONE_HEAD),
        Arm(HARD_TOKEN),
        Arm(LIVE, teaching="live", only_first_seed=True),
        Arm("hard, token, transformer teacher", teacher="transformer"),
        Arm("hard, token, mixed labels", teaching="mixed labels"),
        soft_token,
        *(
            dataclasses.replace(soft_token, name=f"soft, token, k = {k}", topk=k)
            for k in (1, 3, 10)
            if k < num_classes
        ),
        *(Arm(f"hard, token, views: {views}", views=views) for views in (1, 5, 20) if views < num_views),
    )
