"""DeiT's Table 3 in small: comparison of teachers and of distillation losses, on images of 32 pixels.

    python -m benchmarks.experiments.table3 --data cifar10 --images images/cifar10 --out table3

Two teachers are trained, their labels extracted, and every arm of arms.py is trained with every seed.
Finished steps are kept: the same command continues a stopped run. Results are OUT/table3.json, .md and .svg.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import multiprocessing
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.experiments.arms import HARD_TOKEN, LIVE, SETTINGS, Arm, Setting, arms
from benchmarks.experiments.table3_config import LAST_UPDATES, Table3Config
from benchmarks.experiments.table3_page import write_page
from benchmarks.experiments.table3_steps import (
    extract_labels,
    limit_threads,
    pack_images,
    run_folder,
    train_student,
    train_teacher,
    wait_for_all,
)
from benchmarks.machine import environment
from student.metrics import read_metrics
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.program.commandline import Command, run_single
from teacher_cache.storage.store import Store


def _experiment(config: Table3Config) -> int:
    """Run the experiment, print its tables, and return 0."""
    print(run_experiment(config, SETTINGS[config.setting]))
    return 0


def run_experiment(config: Table3Config, setting: Setting) -> str:
    """Run the whole experiment, and return the text of the page.

    Raises:
        InputError: The images are not there.
    """
    start_s, out = time.monotonic(), config.folder
    pack_images(config, out, setting)
    with concurrent.futures.ProcessPoolExecutor(
        setting.parallel,
        multiprocessing.get_context("spawn"),
        initializer=limit_threads,
        initargs=(setting.threads,),
    ) as pool:
        teachers = [
            pool.submit(train_teacher, config, setting, teacher)
            for teacher in (setting.transformer, setting.convnet)
        ]
        wait_for_all(teachers, "teachers")
        dataset = PackedDataset(str(out / "train"))
        wanted = arms(len(dataset.info.classes), setting.epochs)
        archives = dict.fromkeys((arm.teacher, arm.topk) for arm in wanted if arm.teaching == "stored")
        submitted = [pool.submit(extract_labels, config, setting, *archive) for archive in archives]
        wait_for_all(submitted, "archives")
        runs = [(arm, seed) for arm in wanted for seed in range(1 if arm.only_first_seed else config.seeds)]
        wait_for_all(
            [pool.submit(train_student, config, setting, arm, seed) for arm, seed in runs], "students"
        )
    result = _collect(config, setting, wanted, time.monotonic() - start_s)
    (out / "table3.json").write_text(json.dumps(result, indent=1) + "\n")
    return write_page(out, result)


def _collect(config: Table3Config, setting: Setting, wanted: Any, seconds: float) -> dict[str, Any]:
    """Return the results of all runs, by arm and seed, and the machine of the runs."""
    out = config.folder

    def result(run: Path) -> dict[str, Any]:
        return read_metrics(Store(run))[-1]["result"]

    def told(arm: Arm, seed: int, name: str) -> list[float]:
        return [line[name] for line in read_metrics(Store(run_folder(out, arm, seed))) if name in line]

    students = []
    for arm in wanted:
        seeds = range(1 if arm.only_first_seed else config.seeds)
        ends = [result(run_folder(out, arm, seed)) for seed in seeds]
        agreement = [told(arm, seed, "agreement")[-LAST_UPDATES:] for seed in seeds]
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
        run_single(
            "python -m benchmarks.experiments.table3", Command(Table3Config, _experiment), sys.argv[1:]
        )
    )
