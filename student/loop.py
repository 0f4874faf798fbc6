"""A training run: everything is built from its config, then one long stream of batches is trained on."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import torch
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3

from student.checkpoint import save_weights
from student.config import TrainConfig
from student.evaluate import accuracy
from student.losses import Loss
from student.model import train_both_heads
from student.step import Objective, Trainer
from teacher_cache.archive.open import open_labels
from teacher_cache.archive.source import LabelSource
from teacher_cache.commandline import parse_kwargs, parse_views
from teacher_cache.dataset.index import DatasetInfo
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import InputError, nearest
from teacher_cache.labels.topk import Labels
from teacher_cache.line_log import LineLog
from teacher_cache.models import create_model, normalization, resolve_device
from teacher_cache.progress import Track
from teacher_cache.store import Store
from teacher_cache.stream import ViewStream
from teacher_cache.stream_plan import StreamPlan, ViewSchedule
from teacher_cache.teacher import Teacher, build_teacher
from teacher_cache.views import recipe as recipes

METRICS_FILE = "metrics.jsonl"
CONFIG_FILE = "config.json"
LAST_FILE = "last.safetensors"
EMA_FILE = "ema.safetensors"


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a run ended with.

    Attributes:
        steps: Updates done.
        images: Views trained on.
        seconds: From the first batch to the last update, without building and evaluating.
        teacher_passes: Views that a live teacher was asked about.
        accuracy: By head, on --val-data; empty without.
    """

    steps: int
    images: int
    seconds: float
    teacher_passes: int
    accuracy: dict[str, float]


def train(config: TrainConfig, track: Track) -> RunResult:
    """Run a training from its first batch to its last, and evaluate the result.

    Raises:
        InputError: The request is wrong: see the errors of what it calls.
    """
    output = _new_output(config)
    dataset = PackedDataset(config.data, config.room)
    archive = open_labels(config.labels, config.room) if config.labels else None
    recipe = archive.recipe if archive else recipes.load(config.recipe or "deit", config.img_size)
    validation = _validation_data(config, dataset.info)
    plan = StreamPlan(
        num_rows=len(dataset),
        rows_per_shard=dataset.info.samples_per_shard,
        batch_size=config.batch_size,
        seed=config.seed,
        window_shards=config.window_shards,
        drop_last=True,
        views_per_load=config.views_per_load,
        views_together=config.views_together,
    )
    num_steps = config.steps or config.epochs * plan.batches_per_epoch
    passes = -(-num_steps // (plan.batches_per_epoch * config.views_per_load))
    schedule = _schedule(config, archive, passes * config.views_per_load)
    stream = ViewStream(dataset, recipe, plan, schedule, num_batches=num_steps, archive=archive)
    device = resolve_device(config.device)
    trainer = build_trainer(
        config,
        dataset.info,
        recipe.img_size,
        num_steps,
        plan.batches_per_epoch,
        device,
        affinity=archive.affinity if archive else None,
    )
    output.put(CONFIG_FILE, json.dumps(dataclasses.asdict(config), indent=1).encode())

    torch.manual_seed(config.seed)
    loader = stream.loader(config.workers, pin_memory=device.type == "cuda")
    start_s = time.monotonic()
    with track("train", num_steps, "steps") as advance, LineLog(output, METRICS_FILE) as metrics:
        pending: list[tuple[float, Loss]] = []
        for batch in loader:
            pending.append((trainer.lr, trainer.step(batch)))
            if len(pending) == config.log_interval or trainer.updates == num_steps:
                first_step = trainer.updates - len(pending)
                _log(metrics, first_step, pending, plan.batches_per_epoch, time.monotonic() - start_s)
                pending = []
            advance(1)
        seconds = time.monotonic() - start_s
        result = RunResult(
            steps=num_steps,
            images=num_steps * config.batch_size,
            seconds=round(seconds, 3),
            teacher_passes=num_steps * config.batch_size if trainer.teacher else 0,
            accuracy=_finish(config, output, trainer, dataset.info, recipe.img_size, validation),
        )
        metrics.write(json.dumps({"result": dataclasses.asdict(result)}))
    return result


def build_trainer(
    config: TrainConfig,
    dataset: DatasetInfo,
    img_size: int,
    num_steps: int,
    batches_per_epoch: int,
    device: torch.device,
    affinity: Labels | None = None,
) -> Trainer:
    """Build the student, its optimizer and schedule, and a live teacher if one is asked for."""
    model = create_model(
        config.model,
        num_classes=len(dataset.classes),
        img_size=img_size,
        pretrained=config.pretrained,
        seed=config.seed,
        model_kwargs=_model_kwargs(config),
    )
    train_both_heads(model)
    model.to(device).to(memory_format=torch.channels_last).train()  # as the pixels lie
    if config.opt not in list_optimizers():
        raise InputError(
            f"timm has no optimizer {config.opt!r}",
            "Nothing was trained.",
            nearest(config.opt, map(str, list_optimizers())) or "see timm.optim.list_optimizers()",
        )
    optimizer = create_optimizer_v2(model, config.opt, lr=config.peak_lr, weight_decay=config.weight_decay)
    scheduler = CosineLRScheduler(
        optimizer,
        t_initial=num_steps,
        lr_min=config.min_lr,
        warmup_t=min(round(config.warmup_epochs * batches_per_epoch), num_steps // 5),
        warmup_lr_init=config.warmup_lr,
        t_in_epochs=False,
    )
    mean, std = normalization(model)
    return Trainer(
        model=model,
        device=device,
        mean=mean,
        std=std,
        optimizer=optimizer,
        scheduler=scheduler,
        ema=ModelEmaV3(model, decay=config.model_ema_decay) if config.model_ema else None,
        objective=Objective(
            config.distillation,
            config.distillation_alpha,
            config.distillation_tau,
            config.smoothing,
            config.tail,
            affinity.to(device) if affinity is not None else None,
        ),
        teacher=_teacher(config, dataset, img_size, device) if config.teacher else None,
        bfloat16=config.precision == "bfloat16" or (config.precision == "auto" and device.type == "cuda"),
        clip_grad=config.clip_grad,
    )


def _model_kwargs(config: TrainConfig) -> dict[str, Any]:
    drop_path = {"drop_path_rate": config.drop_path} if config.drop_path else {}
    return {**drop_path, **parse_kwargs(config.model_kwargs)}


def _teacher(config: TrainConfig, dataset: DatasetInfo, img_size: int, device: torch.device) -> Teacher:
    assert config.teacher is not None
    return build_teacher(
        config.teacher,
        num_classes=len(dataset.classes),
        classes_sha256=dataset.classes_sha256,
        img_size=img_size,
        device=device,
        pretrained=config.teacher_pretrained,
        checkpoint=config.teacher_checkpoint,
        model_kwargs=parse_kwargs(config.teacher_model_kwargs),
        precision=config.precision,
    )


def _new_output(config: TrainConfig) -> Store:
    output = Store(config.output)
    if output.list():
        raise InputError(
            f"--output {config.output} is not empty",
            "An earlier run's metrics and weights would be overwritten.",
            "choose a new folder",
        )
    return output


def _validation_data(config: TrainConfig, dataset: DatasetInfo) -> PackedDataset | None:
    if config.val_data is None:
        return None
    validation = PackedDataset(config.val_data, config.room)
    if validation.info.classes_sha256 != dataset.classes_sha256:
        raise InputError(
            f"--val-data {config.val_data} has another class list than --data {config.data}",
            "Its labels would mean other classes.",
            "pack both from sources with the same classes",
        )
    return validation


def _schedule(config: TrainConfig, archive: LabelSource | None, num_epochs: int) -> ViewSchedule:
    if config.views is not None:
        return ViewSchedule(parse_views(config.views))
    return ViewSchedule(archive.views if archive is not None else range(num_epochs))


def _log(
    metrics: LineLog, first_step: int, steps: list[tuple[float, Loss]], batches_per_epoch: int, seconds: float
) -> None:
    """Write a line per step; the only place of a run that waits for the device."""
    values = torch.stack([torch.stack(loss) for _, loss in steps]).tolist()
    for number, (total, label, distillation) in enumerate(values):
        step = first_step + number
        line = {
            "step": step,
            "epoch": step // batches_per_epoch,
            "loss": total,
            "loss_label": label,
            "loss_distillation": distillation,
            "lr": steps[number][0],
            "seconds": round(seconds, 3),
        }
        metrics.write(json.dumps(line))


def _finish(
    config: TrainConfig,
    output: Store,
    trainer: Trainer,
    dataset: DatasetInfo,
    img_size: int,
    validation: PackedDataset | None,
) -> dict[str, float]:
    about = {
        "model": config.model,
        "model_kwargs": parse_kwargs(config.model_kwargs),
        "num_classes": len(dataset.classes),
        "classes_sha256": dataset.classes_sha256,
        "img_size": img_size,
    }
    save_weights(output, LAST_FILE, trainer.model, about)
    if trainer.ema is not None:
        save_weights(output, EMA_FILE, trainer.ema.module, about)
    if validation is None:
        return {}
    return accuracy(
        trainer.model,
        validation,
        img_size=img_size,
        crop_pct=config.crop_pct,
        batch_size=config.batch_size,
        device=trainer.device,
        mean=trainer.mean,
        std=trainer.std,
        workers=config.workers,
    )
