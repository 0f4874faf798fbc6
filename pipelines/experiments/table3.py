"""DeiT's Table 3 in small: who teaches better, and how, on images of 32 pixels.

    python -m pipelines.experiments.table3 --data cifar10 --images images/cifar10 --out table3

Two teachers are trained, their labels extracted, and every arm of arms.py is trained with every seed. What is
done is kept: the same command goes on where it was stopped. The result is OUT/table3.json, .md and .svg.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import multiprocessing
import re
import sys
import time
from pathlib import Path
from typing import Any, Literal

import pyarrow.parquet as pq
import torch

from pipelines.experiments.arms import HARD_TOKEN, LIVE, SETTINGS, Arm, Setting, Teacher, arms
from pipelines.experiments.mixed_labels import MixedLabels
from pipelines.experiments.table3_page import write_page
from pipelines.extraction.extract import extract
from pipelines.flags.extract import ExtractConfig
from pipelines.machine import environment
from student.config import TrainConfig
from student.loop import LAST_FILE, train
from student.metrics import read_metrics
from teacher_cache.dataset.pack import pack
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.dataset.sources import open_source
from teacher_cache.errors import InputError
from teacher_cache.models.create import resolve_device
from teacher_cache.models.teacher import build_teacher
from teacher_cache.program.commandline import Command, run_single
from teacher_cache.program.progress import console, silent
from teacher_cache.storage.store import Store

RECIPE = str(Path(__file__).with_name("deit32.yaml"))
SIDE_PX = 32
_LAST_UPDATES = 100
"""Over which a student's agreement with its teacher is told."""
SOURCES = {
    "cifar10": ("uoft-cs/cifar10", "test"),
    "tiny-imagenet": ("zh-plus/tiny-imagenet", "val"),
}
"""Where each dataset comes from on the Hugging Face hub, and the split that is evaluated on."""


@dataclasses.dataclass(frozen=True)
class Table3Config:
    """Train DeiT's Table 3 in small, and write its tables and figures."""

    data: Literal["cifar10", "tiny-imagenet"]
    """The dataset."""
    images: str | None = None
    """Folder of its train.parquet and test.parquet or val.parquet; images/DATA if not given."""
    out: str | None = None
    """Folder for everything, table3/DATA-SETTING if not given; what is done there is not done again."""
    setting: Literal["cpu", "gpu"] = "cpu"
    """How large it is: two cores for an hour or two, or a GPU."""
    seeds: int = 3
    """Repeats of every arm."""
    device: str = "auto"
    """auto is CUDA if there is one."""

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return Path(self.out or f"table3/{self.data}-{self.setting}")


def _experiment(config: Table3Config) -> int:
    """Run the experiment, print its tables, and return 0."""
    print(run_experiment(config, SETTINGS[config.setting]))
    return 0


def run_experiment(config: Table3Config, setting: Setting) -> str:
    """Run it all, and return the page.

    Raises:
        InputError: The images are not there.
    """
    start_s, out = time.monotonic(), config.folder
    _pack(config, out, setting)
    with concurrent.futures.ProcessPoolExecutor(
        setting.parallel,
        multiprocessing.get_context("spawn"),
        initializer=_limit,
        initargs=(setting.threads,),
    ) as pool:
        teachers = [
            pool.submit(_train_teacher, config, setting, teacher)
            for teacher in (setting.transformer, setting.convnet)
        ]
        _wait(teachers, "teachers")
        dataset = PackedDataset(str(out / "train"))
        wanted = arms(len(dataset.info.classes), setting.epochs)
        archives = dict.fromkeys((arm.teacher, arm.topk) for arm in wanted if arm.teaching == "stored")
        _wait([pool.submit(_extract, config, setting, *archive) for archive in archives], "archives")
        runs = [(arm, seed) for arm in wanted for seed in range(1 if arm.only_first_seed else config.seeds)]
        _wait([pool.submit(_train_student, config, setting, arm, seed) for arm, seed in runs], "students")
    result = _collect(config, setting, wanted, time.monotonic() - start_s)
    (out / "table3.json").write_text(json.dumps(result, indent=1) + "\n")
    return write_page(out, result)


def _limit(threads: int) -> None:
    torch.set_num_threads(threads)


def _wait(futures: list[concurrent.futures.Future[None]], what: str) -> None:
    with console(what, len(futures), "runs") as advance:
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
                advance(1)
        except BaseException:
            for future in futures:
                future.cancel()
            raise


def _pack(config: Table3Config, out: Path, setting: Setting) -> None:
    """Pack the teachers' images, all; the students', the first of them; and those to validate on."""
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
            "Its runs would be told as this one's.",
            "choose another --out, or delete it",
        )
    marker.write_text(asked)
    few = out / "few.parquet"
    pq.write_table(pq.read_table(files["train"]).slice(0, setting.num_images), few)
    for name, file in (("all", files["train"]), ("train", few), ("val", files[split])):
        if not (out / name / "dataset.json").exists():
            options = {"shard_size": 1000, "seed": 0, "reencode": None, "skip_corrupt": False, "workers": 2}
            pack(open_source(str(file)), Store(out / name), track=console, **options)  # type: ignore[arg-type]


def _train_teacher(config: Table3Config, setting: Setting, teacher: Teacher) -> None:
    out = config.folder
    if not _is_done(out / teacher.name):
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


def _labels(out: Path, teacher: str, topk: int | None) -> Path:
    return out / f"labels-{teacher}-{topk or 'all'}"


def _teacher(setting: Setting, name: str) -> Teacher:
    return setting.transformer if name == "transformer" else setting.convnet


def _extract(config: Table3Config, setting: Setting, name: str, topk: int | None) -> None:
    out, teacher = config.folder, _teacher(setting, name)
    num_classes = len(PackedDataset(str(out / "train")).info.classes)
    extract(
        ExtractConfig(
            data=str(out / "train"),
            out=str(_labels(out, name, topk)),
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


def _run_folder(out: Path, arm: Arm, seed: int) -> Path:
    return out / "runs" / f"{re.sub('[^a-z0-9]+', '-', arm.name)}-{seed}"


def _is_done(run: Path) -> bool:
    return (run / LAST_FILE).exists() and "result" in read_metrics(Store(run))[-1]


def _train_student(config: Table3Config, setting: Setting, arm: Arm, seed: int) -> None:
    out, teacher = config.folder, _teacher(setting, arm.teacher)
    run = _run_folder(out, arm, seed)
    if _is_done(run):
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
        labels=str(_labels(out, arm.teacher, arm.topk)) if is_stored else None,
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
                teacher.model,
                classes=info.class_list,
                img_size=SIDE_PX,
                device=resolve_device(config.device),
                checkpoint=weights,
                model_kwargs={},
            )
        )
    train(training, silent, teach)


def _collect(config: Table3Config, setting: Setting, wanted: Any, seconds: float) -> dict[str, Any]:
    """Return what all runs ended with, by arm and seed, and what machine they ran on."""
    out = config.folder

    def result(run: Path) -> dict[str, Any]:
        return read_metrics(Store(run))[-1]["result"]

    def told(arm: Arm, seed: int, name: str) -> list[float]:
        return [line[name] for line in read_metrics(Store(_run_folder(out, arm, seed))) if name in line]

    students = []
    for arm in wanted:
        seeds = range(1 if arm.only_first_seed else config.seeds)
        ends = [result(_run_folder(out, arm, seed)) for seed in seeds]
        agreement = [told(arm, seed, "agreement")[-_LAST_UPDATES:] for seed in seeds]
        students.append(
            {
                **dataclasses.asdict(arm),
                "accuracy": [end["accuracy"] for end in ends],
                "agreement": [sum(shares) / len(shares) for shares in agreement if shares],
                "seconds": [end["seconds"] for end in ends],
            }
        )
    cached, live = (
        told(next(arm for arm in wanted if arm.name == name), 0, "loss") for name in (HARD_TOKEN, LIVE)
    )
    pairs = list(zip(cached, live, strict=True))
    return {
        "experiment": "table3",
        **environment(("torch", "timm", "numpy")),
        "data": config.data,
        "setting": {"name": config.setting, **dataclasses.asdict(setting)},
        "teachers": {
            teacher.name: result(out / teacher.name)["accuracy"]["class"]
            for teacher in (setting.convnet, setting.transformer)
        },
        "students": students,
        "live_and_cached": {
            "updates": len(pairs),
            "equal": sum(cached == live for cached, live in pairs),
            "largest_relative_gap": max(abs(cached - live) / abs(live) for cached, live in pairs),
        },
        "seconds_of_this_call": round(seconds, 1),
        "seconds_of_all_runs": round(
            sum(sum(student["seconds"]) for student in students)
            + sum(
                result(out / teacher.name)["seconds"] for teacher in (setting.convnet, setting.transformer)
            ),
            1,
        ),
    }


if __name__ == "__main__":
    sys.exit(
        run_single("python -m pipelines.experiments.table3", Command(Table3Config, _experiment), sys.argv[1:])
    )
