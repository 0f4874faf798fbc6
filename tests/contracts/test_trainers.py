"""Stored labels give the losses of a live teacher in every trainer, also resumed, and on two ranks."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from drive_trainers import TRAINERS, Drive
from drive_trainers import main as drive_trainers
from support import TEACHER, begun_as_two_ranks, extract_flags, teacher_checkpoint, write_class_folders
from transformers import ResNetConfig, ResNetForImageClassification, TrainingArguments

from examples import hf_trainer
from pipelines.cli import main
from teacher_cache import LabelledViews, ViewBatch
from teacher_cache.errors import InputError

pytestmark = pytest.mark.slow
NUM_IMAGES, NUM_VIEWS, BATCH_SIZE = 48, 3, 8
BATCHES_PER_EPOCH = NUM_IMAGES // BATCH_SIZE
EPOCHS = 9  # 54 batches


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Drive:
    """48 images of three classes, mixed as DeiT mixes them, with the labels of three views."""
    folder = tmp_path_factory.mktemp("trainers")
    write_class_folders(folder / "images", per_class=16)
    assert main(["pack", str(folder / "images"), str(folder / "data"), "--shard-size=16"]) == 0
    assert main(extract_flags(str(folder / "data"), folder / "labels", topk=2)) == 0
    return Drive(str(folder / "data"), str(folder / "labels"), TEACHER, teacher_checkpoint())


@pytest.mark.parametrize("name", TRAINERS)
def test_stored_labels_give_the_losses_of_a_live_teacher_also_after_a_stop(
    name: str, drive: Drive, tmp_path: Path
) -> None:
    size = {"epochs": EPOCHS, "batch_size": BATCH_SIZE}
    stored, seen = drive.run(name, tmp_path / "stored", **size)
    live, seen_live = drive.run(name, tmp_path / "live", **size, live=True)
    assert len(stored) == EPOCHS * BATCHES_PER_EPOCH >= 50
    assert seen == seen_live
    assert stored == pytest.approx(live, abs=1e-6)
    assert len(set(stored)) == len(stored)  # it learns something

    stop = 3 * BATCHES_PER_EPOCH + 2
    first, seen_first = drive.run(name, tmp_path / "parts", **size, stop_after=stop)
    rest, seen_rest = drive.run(name, tmp_path / "parts", **size, workers=2)
    assert len(first) == stop
    assert seen_first + seen_rest == seen
    assert first + rest == pytest.approx(stored, abs=1e-6)

    per_epoch = [Counter(seen[n * NUM_IMAGES : (n + 1) * NUM_IMAGES]) for n in range(EPOCHS)]
    for epoch, pairs in enumerate(per_epoch):
        assert pairs == Counter((row, epoch % NUM_VIEWS) for row in range(NUM_IMAGES))


@pytest.mark.parametrize(
    "names", [("torchrun_loop", "hf_trainer"), pytest.param(tuple(TRAINERS), marks=pytest.mark.soak)]
)
def test_two_ranks_give_the_losses_of_a_live_teacher_and_share_every_view(
    names: tuple[str, ...], drive: Drive, tmp_path: Path
) -> None:
    words = [drive.data, drive.labels, drive.teacher, drive.checkpoint, str(tmp_path), "3", *names]
    for rank in begun_as_two_ranks(drive_trainers, words):
        rank.join()
        assert rank.exitcode == 0
    for name in names:
        ranks = [json.loads((tmp_path / f"{name}-{rank}.json").read_text()) for rank in (0, 1)]
        for rank in ranks:
            stored, live, stopped = [rank[kind][0] for kind in ("stored", "live", "stopped")]
            assert len(stored) == 3 * BATCHES_PER_EPOCH, name
            assert stored == pytest.approx(live, abs=1e-6), name
            assert stopped == pytest.approx(stored, abs=1e-6), name
            assert rank["stopped"][1] == rank["stored"][1], name
        both = Counter(tuple(pair) for rank in ranks for pair in rank["stored"][1])
        assert both == Counter((row, view) for row in range(NUM_IMAGES) for view in range(NUM_VIEWS)), name


@pytest.mark.parametrize(
    ("name", "batch_size", "stop"),
    [("hf_trainer", 4, 5), ("hf_trainer", 12, 3), ("lightning_trainer", 16, 2)],
)
def test_a_trainer_that_goes_on_in_other_batches_sees_each_view_once_or_is_refused(
    name: str, batch_size: int, stop: int, drive: Drive, tmp_path: Path
) -> None:
    """Trainers count updates: their checkpoint carries what the position in the views counts in."""
    first = drive.run(name, tmp_path, epochs=2, batch_size=BATCH_SIZE, stop_after=stop)[1]
    with pytest.raises(InputError, match=r"(.|\n)*left out, or seen twice"):
        drive.run(name, tmp_path, epochs=2, batch_size=batch_size)
    rest = drive.run(name, tmp_path, epochs=2, batch_size=BATCH_SIZE)[1]
    assert Counter(first + rest) == Counter((row, view) for row in range(NUM_IMAGES) for view in range(2))


def test_a_second_train_of_hugging_faces_trainer_begins_anew(drive: Drive, tmp_path: Path) -> None:
    views = LabelledViews(drive.data, labels=drive.labels, batch_size=BATCH_SIZE)
    seen: list[tuple[int, int]] = []

    def teach(batch: ViewBatch) -> object:
        seen.extend(zip(batch.rows_B.tolist(), batch.views_B.tolist(), strict=True))
        return batch.labels

    config = ResNetConfig(id2label={0: "a", 1: "b", 2: "c"}, **TRAINERS["hf_trainer"])
    args = TrainingArguments(
        str(tmp_path),
        num_train_epochs=2,
        per_device_train_batch_size=BATCH_SIZE,
        remove_unused_columns=False,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
    )
    model = ResNetForImageClassification(config)
    trainer = hf_trainer.Distiller(model, args, views=views, workers=0, teach=teach)
    trainer.train()
    once = list(seen)
    trainer.train()
    assert seen == once + once
