"""The experiment, very small: every arm runs, and what is done is not done again."""

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support import CLASSES, IMG_SIZE, TEACHER, built_teacher, picture, teacher_checkpoint

from benchmarks.experiments.arms import SETTINGS
from benchmarks.experiments.mixed_labels import MixedLabels
from benchmarks.experiments.table3 import run_experiment
from benchmarks.experiments.table3_config import Table3Config
from teacher_cache.batches.batch import ViewBatch, view_batch
from teacher_cache.batches.rendered import ViewIds
from teacher_cache.batches.renderer import BatchRenderer
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import InputError
from teacher_cache.views.finish import finish
from teacher_cache.views.recipe import load_recipe

SMALL_VIT = ("patch_size=8", "embed_dim=48", "depth=1", "num_heads=3")


def write_images(folder: Path, count: int = 40) -> None:
    """Write parquet files as the Hugging Face hub has them: ten classes of small pictures."""
    folder.mkdir()
    for split in ("train", "test"):
        rows = []
        for number in range(count):
            with io.BytesIO() as file:
                picture(number % 10, 32, 32).save(file, "png")
                rows.append({"img": {"bytes": file.getvalue(), "path": None}, "label": number % 10})
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")


@pytest.mark.soak
def test_every_arm_is_trained_and_told(tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    cpu = SETTINGS["cpu"]
    setting = dataclasses.replace(
        cpu,
        num_images=32,
        epochs=2,
        batch_size=16,
        student_kwargs=SMALL_VIT,
        convnet=dataclasses.replace(cpu.convnet, epochs=1),
        transformer=dataclasses.replace(cpu.transformer, epochs=1, model_kwargs=SMALL_VIT),
    )
    config = Table3Config("cifar10", str(tmp_path / "images"), str(tmp_path / "out"), seeds=1, device="cpu")
    page = run_experiment(config, setting)
    result = json.loads((tmp_path / "out/table3.json").read_text())
    assert {arm["name"] for arm in result["students"]} >= {"no distillation", "hard, token, views: 1"}
    assert all(0 <= share <= 1 for arm in result["students"] for share in arm["accuracy"][0].values())
    assert result["live_and_cached"] == {"updates": 4, "equal": 4, "largest_relative_gap": 0.0}
    assert "| no distillation | " in page
    assert (tmp_path / "out/table3.svg").read_text().startswith("<?xml")
    weights = (tmp_path / "out/runs/hard-token-0/last.safetensors").stat().st_mtime_ns
    assert run_experiment(config, setting) == page
    assert (tmp_path / "out/runs/hard-token-0/last.safetensors").stat().st_mtime_ns == weights


def test_images_that_are_not_there_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="uoft-cs/cifar10"):
        run_experiment(Table3Config("cifar10", str(tmp_path), str(tmp_path / "out")), SETTINGS["cpu"])


def test_mixed_labels_are_the_teachers_of_both_pictures_mixed_as_the_view_is(dataset: PackedDataset) -> None:
    recipe = load_recipe("deit", IMG_SIZE)
    (batch,) = map(
        view_batch, BatchRenderer(dataset, recipe).render([ViewIds(np.arange(4), np.zeros(4, np.int64))])
    )
    teacher = built_teacher(
        TEACHER,
        classes=dataset.info.class_list,
        img_size=IMG_SIZE,
        checkpoint=teacher_checkpoint(),
    )
    found = MixedLabels(teacher)(batch, batch.pixels("cpu"))
    assert batch.targets.weight_B is not None
    assert (batch.targets.weight_B < 1).any()
    for place, weight in enumerate(batch.targets.weight_B.tolist()):
        partner = int(batch.finishing.partner_B[place])  # type: ignore[union-attr]
        shares = [teacher.logits(_finished(batch, one)).softmax(1)[0] for one in (place, partner)]
        expected_C = weight * shares[0] + (1 - weight) * shares[1]
        found_C = torch.zeros(len(CLASSES))
        found_C[found.class_ids_BK[place].long()] = found.relative_logits_BK[place].softmax(0)
        torch.testing.assert_close(found_C, expected_C)


def _finished(batch: ViewBatch, place: int) -> torch.Tensor:
    """Return one rendered picture of a batch, erased and not mixed."""
    assert batch.finishing is not None
    erase_14 = batch.finishing.erase_R4[place : place + 1]
    alone = batch.finishing._replace(
        erase_R4=erase_14,
        partner_B=torch.zeros(1, dtype=torch.int64),
        **{name: torch.ones(1) for name in ("blend_B", "weight_B")},
        box_B4=torch.zeros(1, 4, dtype=torch.int32),
    )
    return finish(batch.images_RCHW[place : place + 1], alone)
