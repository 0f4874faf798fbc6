"""Time of a step of timm's training loop: its own, with stored labels, and with its live token distillation.

    python -m benchmarks.timm_step --json benchmarks/results/timm-step.json

A step is what timm's train.py does for a batch: the next (input, target) of the loader, the task's forward,
the backward, the update, and reading the loss. All three render the same views in the same order, and take
turns repeat by repeat. The live teacher is that of --kd-model-name with --kd-distill-type token, hard labels.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from timm.loss import SoftTargetCrossEntropy
from timm.optim import create_optimizer_v2
from timm.task import ClassificationTask, TokenDistillationTask

from benchmarks.common import interleaved, print_steps, write_json
from benchmarks.machine import environment
from benchmarks.step import LabelledImages, prepare
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.batches.batch import Targets
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.models.create import resolve_device
from teacher_cache.program.commandline import Command, run_single
from teacher_cache.stream.labelled_views import LabelledViews
from teacher_cache.trainers.timm_script import StoredDistillationTask, TimmLoader

MODES = ("timm", "timm, stored labels", "timm, live teacher")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TimmStepConfig(LabelledImages):
    """Time a step of timm's loop: its own, with stored labels, and with its live token distillation."""

    model: str = "deit_tiny_distilled_patch16_224"
    """Name of the student's timm model, with a distillation token."""
    teacher: str = "regnety_160"
    """Name of the live teacher's timm model; the weights are random."""
    batch_size: int = 16
    """Views in a step."""
    steps: int = 4
    """Steps in a repeat of the two quick modes; the live teacher does one."""
    repeats: int = 9
    """Repeats of each mode."""
    device: str = "auto"
    """Device of the models; auto takes CUDA where there is one."""
    json: str | None = None
    """File for the result."""


def _dense(targets: Targets, num_classes: int) -> torch.Tensor:
    """Return mixed true labels as timm's Mixup gives them, (B, C)."""
    own_BC = torch.nn.functional.one_hot(targets.own_B, num_classes).float()
    if targets.weight_B is None:
        return own_BC
    partner_BC = torch.nn.functional.one_hot(targets.partner_B, num_classes).float()
    weight_B1 = targets.weight_B[:, None]
    return weight_B1 * own_BC + (1 - weight_B1) * partner_BC


def _task(config: TimmStepConfig, mode: str, num_classes: int, device: torch.device) -> Any:
    torch.manual_seed(0)
    student = timm.create_model(config.model, num_classes=num_classes).to(device)
    if mode == "timm":
        return ClassificationTask(student, SoftTargetCrossEntropy(), device=device, verbose=False)
    if mode == "timm, stored labels":
        return StoredDistillationTask(student, task_loss_weight=0.5, device=device)
    teacher = timm.create_model(config.teacher, num_classes=num_classes).to(device)
    return TokenDistillationTask(
        student,
        teacher,
        SoftTargetCrossEntropy(),
        distill_type="hard",
        task_loss_weight=0.5,
        device=device,
        verbose=False,
    )


def _timed(
    config: TimmStepConfig, mode: str, dataset: PackedDataset, archive: ArchiveReader
) -> Callable[[], float]:
    """Return a function that does some steps and returns the seconds per step."""
    device, stores = resolve_device(config.device), mode == "timm, stored labels"
    options: dict[str, Any] = (
        {"labels": archive} if stores else {"recipe": archive.recipe, "views": archive.views}
    )
    views = LabelledViews(dataset, batch_size=config.batch_size, **options)
    task = _task(config, mode, views.num_classes, device)
    student = task.get_trainable_module().train()
    data = resolve_data_config(model=student)
    loader = TimmLoader(views, mean=data["mean"], std=data["std"], device=device)
    optimizer = create_optimizer_v2(student, opt="adamw", lr=1e-3, weight_decay=0.05)
    steps = 1 if mode == "timm, live teacher" else config.steps

    def batches() -> Iterator[tuple[torch.Tensor, Any]]:
        for epoch in range(1_000_000):
            loader.dataset.set_epoch(epoch)
            yield from loader

    stream = batches()

    def run() -> float:
        start_s = time.perf_counter()
        for _ in range(steps):
            inputs_BCHW, target = next(stream)
            result = task(inputs_BCHW, target if stores else _dense(target.targets, views.num_classes))
            optimizer.zero_grad()
            result["loss"].backward()
            optimizer.step()
            result["loss"].item()
        return (time.perf_counter() - start_s) / steps

    run()
    return run


def _benchmark(config: TimmStepConfig) -> int:
    """Run the benchmark, print its table, and return 0."""
    with tempfile.TemporaryDirectory() as folder:
        dataset, archive = prepare(config, Path(folder))
        runs = {mode: _timed(config, mode, dataset, archive) for mode in MODES}
        times = interleaved(runs, config.repeats)
    title = f"{config.model}, {config.img_size} px, batch {config.batch_size}"
    ratios = print_steps(title, times, MODES[0])
    head = environment(("torch", "timm", "zarr", "simplejpeg", "numpy"))
    print(head)
    images = "folder" if config.images else "synthetic"
    settings = {**dataclasses.asdict(config), "json": None, "images": images}
    result = {"seconds": times, "ratio_min_median_max": ratios}
    write_json(config.json, {"benchmark": "timm_step", **head, "config": settings, **result})
    return 0


if __name__ == "__main__":
    sys.exit(run_single("python -m benchmarks.timm_step", Command(TimmStepConfig, _benchmark), sys.argv[1:]))
