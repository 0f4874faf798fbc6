"""Build a trainer from flags: the student and its first weights, optimizer, schedule and teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch.nn.parallel import DistributedDataParallel

from student.config import TrainConfig
from student.model import has_two_heads, train_both_heads
from student.plan import RunPlan
from student.ranks import Ranks
from student.step import LiveTeacher, Teaching, Trainer, stored_labels
from student.terms import Objective
from teacher_cache.dataset.index import DatasetInfo
from teacher_cache.errors import InputError, nearest
from teacher_cache.labels.topk import AnyAffinity
from teacher_cache.models.checkpoint import begin_with
from teacher_cache.models.create import create_model, normalization
from teacher_cache.models.kinds import TeacherSettings
from teacher_cache.models.teacher import build_teacher
from teacher_cache.program.flags import parse_kwargs

_FUSED = ("adam", "adamw", "sgd")
"""Names of torch's optimizers that update all weights in one pass."""


def build_trainer(
    config: TrainConfig,
    dataset: DatasetInfo,
    img_size: int,
    plan: RunPlan,
    ranks: Ranks,
    *,
    affinity: AnyAffinity = None,
    teach: Teaching | None = None,
    num_classes: int | None = None,
    has_true_labels: bool = True,
) -> Trainer:
    """Build the trainer of a run, with its student, optimizer, schedule, loss and teacher.

    Args:
        affinity: Class affinity of the archive, or of several.
        num_classes: Number of classes, if the dataset does not name them.
        has_true_labels: Whether the samples have labels of their own.

    Raises:
        InputError: No such optimizer or torch backend exists, or a required distillation token is missing.
        ModelError: See `create_model` and `load_weights`.
    """
    model = build_student(config, dataset, img_size, num_classes)
    train_both_heads(model)
    model.to(ranks.device).to(memory_format=torch.channels_last).train()  # as the pixels lie
    mean, std = normalization(model)
    optimizer = _optimizer(config, model, plan)
    scheduler = CosineLRScheduler(
        optimizer,
        t_initial=plan.num_updates,
        lr_min=min(config.min_lr, plan.peak_lr),
        warmup_t=plan.warmup_updates,
        warmup_lr_init=config.warmup_lr,
        t_in_epochs=False,
    )
    return Trainer(
        model=model,
        forward=_forward(config, model, ranks),
        ranks=ranks,
        mean=mean,
        std=std,
        optimizer=optimizer,
        scheduler=scheduler,
        scaler=torch.amp.GradScaler(ranks.device.type, enabled=config.precision == "float16"),
        ema=ModelEmaV3(model, decay=config.model_ema_decay) if config.model_ema else None,
        objective=_objective(
            config, affinity.to(ranks.device) if affinity is not None else None, has_true_labels
        ),
        teach=teach or _teaching(config, dataset, img_size, ranks.device),
        autocast=autocast_type(config, ranks.device),
        clip_grad=config.clip_grad,
        seed=config.seed,
    )


def _objective(config: TrainConfig, affinity: AnyAffinity, has_true_labels: bool) -> Objective:
    return Objective(
        kind=config.distillation,
        alpha=config.distillation_alpha,
        tau=config.distillation_tau,
        smoothing=config.smoothing,
        tail=config.tail,
        affinity=affinity,
        divides_by_classes=config.kd_reduction == "numel",
        has_true_labels=has_true_labels,
    )


def build_student(
    config: TrainConfig, dataset: DatasetInfo, img_size: int, num_classes: int | None = None
) -> torch.nn.Module:
    """Build the student on the CPU, in evaluation mode, with its first weights.

    Raises:
        InputError: The model has no distillation token, and the flags require one.
        ModelError: See `create_model` and `begin_with`.
    """
    drop_path = {"drop_path_rate": config.drop_path} if config.drop_path else {}
    model = create_model(
        config.model,
        num_classes=num_classes or len(dataset.classes),
        img_size=img_size,
        pretrained=config.pretrained,
        new_head=True,
        seed=config.seed,
        model_kwargs={**drop_path, **parse_kwargs(config.model_kwargs)},
    )
    if config.distillation_token and not has_two_heads(model):
        raise InputError(
            f"--distillation-token with --model {config.model}, which has only one head",
            "The class head would learn from the teacher, unlike in the DeiT paper.",
            "choose a model such as deit_tiny_distilled_patch16_224, or remove --distillation-token",
        )
    if config.finetune is not None:
        begin_with(model, config.finetune, dataset.class_list)
    return model


def autocast_type(config: TrainConfig, device: torch.device) -> torch.dtype | None:
    """Return the type to autocast forward passes to, or None for float32."""
    if config.precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else None
    return None if config.precision == "float32" else getattr(torch, config.precision)


def _optimizer(config: TrainConfig, model: torch.nn.Module, plan: RunPlan) -> torch.optim.Optimizer:
    if config.opt not in list_optimizers():
        raise InputError(
            f"timm has no optimizer {config.opt!r}",
            "Nothing was trained.",
            nearest(config.opt, map(str, list_optimizers())) or "see timm.optim.list_optimizers()",
        )
    fused: dict[str, Any] = {"fused": True} if config.opt in _FUSED else {}
    try:
        return create_optimizer_v2(
            model, config.opt, lr=plan.peak_lr, weight_decay=config.weight_decay, **fused
        )
    except (AssertionError, ImportError, ValueError, TypeError) as error:
        raise InputError(
            f"--opt {config.opt} cannot be created: {str(error) or type(error).__name__}",
            "Nothing was trained.",
            "install the library it needs, or choose another optimizer, such as --opt adamw",
        ) from error


def _forward(config: TrainConfig, model: torch.nn.Module, ranks: Ranks) -> torch.nn.Module:
    forward = model
    if config.torchcompile is not None:
        backends: Sequence[str] = torch.compiler.list_backends(())
        if config.torchcompile not in backends:
            raise InputError(
                f"--torchcompile {config.torchcompile}",
                "torch has no such backend.",
                nearest(config.torchcompile, backends) or f"known: {', '.join(backends)}",
            )
        forward = torch.compile(forward, backend=config.torchcompile)  # type: ignore[assignment]
    if ranks.world_size > 1:
        on_gpu = [ranks.device.index] if ranks.device.type == "cuda" else None
        forward = DistributedDataParallel(forward, device_ids=on_gpu)
    return forward


def _teaching(config: TrainConfig, dataset: DatasetInfo, img_size: int, device: torch.device) -> Teaching:
    if config.teacher is None:
        return stored_labels
    if config.precision == "float16":
        raise InputError(
            "--precision float16 with --teacher",
            "A live teacher runs in float32 or bfloat16 only.",
            "choose --precision float32 or bfloat16, or stored labels: --labels ARCHIVE",
        )
    settings = TeacherSettings(
        name=config.teacher,
        checkpoint=config.teacher_checkpoint,
        pretrained=config.teacher_pretrained,
        model_kwargs=parse_kwargs(config.teacher_model_kwargs),
        prompts=config.teacher_prompts,
        class_map=config.teacher_class_map,
        precision=config.precision,
        device=str(device),
    )
    return LiveTeacher(build_teacher(settings, classes=dataset.class_list, img_size=img_size))
