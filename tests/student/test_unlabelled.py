"""Images without labels: packed, labelled by a teacher, learnt from the teacher alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support import K, encoded, extract_flags, picture
from test_train import STUDENT

from pipelines.cli import main as teacher_cache_main
from student.cli import main
from teacher_cache import LabelledViews
from teacher_cache.archive.open import open_labels
from teacher_cache.errors import DatasetError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of 12 images without labels or class names, and an archive of a teacher of 3 classes."""
    root = tmp_path_factory.mktemp("unlabelled")
    (root / "in").mkdir()
    for number in range(12):
        (root / "in" / f"{number}.jpg").write_bytes(encoded(picture(number, 40, 48), "JPEG"))
    assert teacher_cache_main(["pack", str(root / "in"), str(root / "data"), "--shard-size=8"]) == 0
    assert teacher_cache_main(extract_flags(str(root / "data"), root / "labels", views="0:2")) == 0
    return root


def train(root: Path, *flags: str) -> int:
    words = [f"--data={root / 'data'}", "--batch-size=4", "--steps=3", *STUDENT, *flags]
    return main(["train", *words])


def test_the_teachers_own_number_of_classes_is_taken(unlabelled: Path) -> None:
    spec = open_labels(str(unlabelled / "labels")).spec
    assert (spec.labels.num_classes, spec.labels.k) == (3, K)


def test_a_student_learns_from_the_teacher_alone(unlabelled: Path, tmp_path: Path) -> None:
    flags = [f"--labels={unlabelled / 'labels'}", "--distillation=soft", "--distillation-alpha=1"]
    assert train(unlabelled, *flags, f"--output={tmp_path / 'run'}") == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "step" in line]
    assert all(line["loss"] == line["loss_distillation"] > 0 and line["loss_label"] == 0 for line in steps)


@pytest.mark.parametrize("flags", [["--distillation=none"], ["--distillation=hard"]])
def test_true_labels_are_refused(
    flags: list[str], unlabelled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = [] if "--distillation=none" in flags else [f"--labels={unlabelled / 'labels'}"]
    assert train(unlabelled, *labels, *flags, f"--output={tmp_path / 'run'}") == 2
    assert "--distillation-alpha 1" in capsys.readouterr().err


def test_accuracy_without_labels_is_refused(
    unlabelled: Path, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [f"--labels={unlabelled / 'labels'}", "--distillation=hard", "--distillation-alpha=1"]
    val = f"--val-data={unlabelled / 'data'}"
    assert train(unlabelled, *flags, val, f"--output={tmp_path / 'run'}") == 2
    assert "There is no accuracy without true labels." in capsys.readouterr().err
    assert train(unlabelled, *flags, f"--val-data={data}", f"--output={tmp_path / 'run'}") == 0
    last = f"--checkpoint={tmp_path / 'run' / 'last.safetensors'}"
    assert main(["eval", last, f"--data={data}"]) == 0
    assert main(["eval", last, f"--data={unlabelled / 'data'}"]) == 2


def test_a_loop_that_asks_for_true_labels_is_told(unlabelled: Path) -> None:
    views = LabelledViews(str(unlabelled / "data"), labels=str(unlabelled / "labels"), batch_size=4)
    assert views.num_classes == 3
    batch = next(iter(views.epoch(0)))
    with pytest.raises(DatasetError, match="has no label"):
        batch.targets.cross_entropy(torch.zeros(4, 3))
