"""Steps of the Table 3 experiment: data, teachers, labels, students; each is done once."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import re
from pathlib import Path

import pyarrow.parquet as pq
import torch

from benchmarks.experiments.arms import Arm, Setting, Teacher
from benchmarks.experiments.mixed_labels import MixedLabels
from benchmarks.experiments.table3_config import RECIPE, SIDE_PX, SOURCES, Table3Config
from pipelines.extraction.flags import ExtractConfig
from pipelines.extraction.running.extract import extract
from student.config import TrainConfig
from student.loop import LAST_FILE
from student.metrics import read_metrics
from student.train import train
from teacher_cache.dataset.packing.pack import PackOptions, pack
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.dataset.sources.open import open_source
from teacher_cache.errors import InputError
from teacher_cache.models.kinds import TeacherSettings
from teacher_cache.models.teacher import build_teacher
from teacher_cache.program.progress import console, silent
from teacher_cache.storage.store import Store


def limit_threads(threads: int) -> None:
    """Limit the threads that torch uses in this process."""
    torch.set_num_threads(threads)


def wait_for_all(futures: list[concurrent.futures.Future[None]], what: str) -> None:
    """Wait for runs, showing progress; an error in one cancels those that have not begun."""
    with console(what, len(futures), "runs") as advance:
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
                advance(1)
        except BaseException:
            for future in futures:
                future.cancel()
            raise


def pack_images(config: Table3Config, out: Path, setting: Setting) -> None:
    """Pack three datasets: all images for the teachers, the first for the students, those to validate on."""
    repository, split = SOURCES[config.data]
    images = Path(config.images or f"images/{config.data}")
    files = {name: images / f"{name}.parquet" for name in ("train", split)}
    for file in files.values():
        if not file.is_file():
            raise InputError(
                f"{file} is not there",
                "There is nothing to train on.",
                f"download {repository} from the Hugging Face hub, a parquet file a split, or give --images",
            )
    out.mkdir(parents=True, exist_ok=True)
    asked = json.dumps([config.data, dataclasses.asdict(setting)], indent=1)
    marker = out / "asked.json"
    if marker.exists() and marker.read_text() != asked:
        raise InputError(
            f"{out} holds another experiment",
            "Its runs would be counted as this one's.",
            "choose another --out, or delete it",
        )
    marker.write_text(asked)
    few = out / "few.parquet"
    pq.write_table(pq.read_table(files["train"]).slice(0, setting.num_images), few)
    for name, file in (("all", files["train"]), ("train", few), ("val", files[split])):
        if not (out / name / "dataset.json").exists():
            pack(open_source(str(file)), Store(out / name), PackOptions(shard_size=1000, workers=2), console)


def train_teacher(config: Table3Config, setting: Setting, teacher: Teacher) -> None:
    """Train a teacher, unless the weights exist."""
    out = config.folder
    if not is_done(out / teacher.name):
        train(
            TrainConfig(
                data=str(out / "all"),
                output=str(out / teacher.name),
                resume="auto",
                val_data=str(out / "val"),
                model=teacher.model,
                model_kwargs=teacher.model_kwargs,
                recipe=RECIPE,
                epochs=teacher.epochs,
                warmup_epochs=1,
                batch_size=setting.batch_size,
                lr=setting.lr,
                crop_pct=1.0,
                device=config.device,
            ),
            silent,
        )


def labels_folder(out: Path, teacher: str, topk: int | None) -> Path:
    """Return the folder of a teacher's labels with `topk` classes; None is all."""
    return out / f"labels-{teacher}-{topk or 'all'}"


def teacher_named(setting: Setting, name: str) -> Teacher:
    """Return the teacher of a setting by name."""
    return setting.transformer if name == "transformer" else setting.convnet


def extract_labels(config: Table3Config, setting: Setting, name: str, topk: int | None) -> None:
    """Extract a teacher's labels with `topk` classes; None is all."""
    out, teacher = config.folder, teacher_named(setting, name)
    num_classes = len(PackedDataset(str(out / "train")).info.classes)
    extract(
        ExtractConfig(
            data=str(out / "train"),
            out=str(labels_folder(out, name, topk)),
            teacher=teacher.model,
            model_kwargs=teacher.model_kwargs,
            checkpoint=str(out / name / LAST_FILE),
            recipe=RECIPE,
            views=f"0:{setting.epochs}",
            topk=topk or num_classes,
            device=config.device,
        ),
        silent,
    )


def run_folder(out: Path, arm: Arm, seed: int) -> Path:
    """Return the folder of an arm's run."""
    return out / "runs" / f"{re.sub('[^a-z0-9]+', '-', arm.name)}-{seed}"


def is_done(run: Path) -> bool:
    """Return whether a run ended with weights and a result."""
    return (run / LAST_FILE).exists() and "result" in read_metrics(Store(run))[-1]


def train_student(config: Table3Config, setting: Setting, arm: Arm, seed: int) -> None:
    """Train a student, or continue its run."""
    out, teacher = config.folder, teacher_named(setting, arm.teacher)
    run = run_folder(out, arm, seed)
    if is_done(run):
        return
    weights = str(out / teacher.name / LAST_FILE)
    is_stored = arm.teaching == "stored"
    training = TrainConfig(
        data=str(out / "train"),
        output=str(run),
        resume="auto",
        val_data=str(out / "val"),
        model=arm.model,
        model_kwargs=setting.student_kwargs,
        distillation=arm.distillation,
        distillation_alpha=arm.alpha,
        distillation_tau=arm.tau,
        labels=(str(labels_folder(out, arm.teacher, arm.topk)),) if is_stored else (),
        teacher=None if is_stored or arm.teaching == "none" else teacher.model,
        teacher_model_kwargs=teacher.model_kwargs,
        teacher_checkpoint=None if is_stored or arm.teaching == "none" else weights,
        recipe=None if is_stored else RECIPE,
        views=f"0:{arm.views or setting.epochs}",
        epochs=setting.epochs,
        batch_size=setting.batch_size,
        lr=setting.lr,
        seed=seed,
        crop_pct=1.0,
        device=config.device,
        log_interval=10,
    )
    teach = None
    if arm.teaching == "mixed labels":
        info = PackedDataset(training.data).info
        teach = MixedLabels(
            build_teacher(
                TeacherSettings(name=teacher.model, checkpoint=weights, device=config.device),
                classes=info.class_list,
                img_size=SIDE_PX,
            )
        )
    train(training, silent, teach)
