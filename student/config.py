"""The flags of `student`, a frozen dataclass per command, spelt as timm's and DeiT's."""

from __future__ import annotations

import dataclasses
from typing import Literal

from teacher_cache.cache import CacheFlags
from teacher_cache.commandline import parse_kwargs, parse_views
from teacher_cache.errors import InputError

Distillation = Literal["none", "soft", "hard"]
Tail = Literal["affinity", "uniform", "bucket", "renormalised"]
Precision = Literal["auto", "float32", "bfloat16"]


def _require(allowed: bool, value: str, rule: str) -> None:
    if not allowed:
        raise InputError(value, rule, "see --help")


@dataclasses.dataclass(frozen=True)
class TrainConfig(CacheFlags):
    """Train a model on views of a packed dataset, with stored labels, a live teacher, or neither."""

    data: str
    """A packed dataset."""
    output: str
    """New folder for metrics and checkpoints."""
    model: str = "deit_tiny_distilled_patch16_224"
    """A timm model; of a deit_*_distilled_* one the distillation token is trained."""
    pretrained: bool = False
    """Begin with weights from the hub."""
    model_kwargs: tuple[str, ...] = ()
    """name=value arguments for timm.create_model."""

    distillation: Distillation = "none"
    """What the teacher teaches: nothing, its probabilities, or its top class."""
    labels: str | None = None
    """An archive of the teacher's labels; it brings its own recipe."""
    teacher: str | None = None
    """A timm model to ask live, instead of an archive."""
    teacher_checkpoint: str | None = None
    """Its weights: a safetensors file, or a torch file of weights alone."""
    teacher_pretrained: bool = True
    """Its weights from the hub, where no --teacher-checkpoint is given."""
    teacher_model_kwargs: tuple[str, ...] = ()
    """name=value arguments for its timm.create_model."""
    distillation_alpha: float = 0.5
    """Weight of the teacher's term, the rest is the true labels'; the paper's soft runs take 0.1."""
    distillation_tau: float = 3.0
    """Temperature of soft distillation."""
    tail: Tail = "affinity"
    """What soft labels say of classes they do not name: see docs/labels.md."""

    recipe: str | None = None
    """A named recipe or a YAML file, where no --labels are given; deit if not given either."""
    img_size: int | None = None
    """Side of a view in pixels, where no --labels are given; 224, or what the recipe's file says."""
    views: str | None = None
    """View indices A:B, one an epoch, over and over; all of the archive's, or one new each epoch."""
    views_per_load: int = 1
    """Views rendered of an image each time it is decoded (repeated augmentation); epochs stay as long."""
    views_together: bool = False
    """They share a batch; else that many batches in a row hold the same images."""
    window_shards: int = 16
    """Shards that are shuffled together."""

    epochs: int = 300
    """Passes over the dataset."""
    steps: int | None = None
    """Length of the run in batches, instead of --epochs."""
    batch_size: int = 256
    """Views in a batch."""
    opt: str = "adamw"
    """A timm optimizer."""
    lr: float | None = None
    """Learning rate; --lr-base * batch size / 512 if not given."""
    lr_base: float = 5e-4
    """Learning rate at a batch size of 512 (DeiT, Table 9)."""
    min_lr: float = 1e-5
    """At the end of the cosine."""
    warmup_epochs: float = 5.0
    """Of linear warm-up; at most a fifth of the run."""
    warmup_lr: float = 1e-6
    """At its beginning."""
    weight_decay: float = 0.05
    """Of weights that have more than one dimension."""
    smoothing: float = 0.1
    """Of the true labels; never of the teacher's."""
    drop_path: float = 0.0
    """Stochastic depth; DeiT takes 0.1."""
    clip_grad: float | None = None
    """Largest norm of all gradients together."""
    model_ema: bool = False
    """Also keep an exponential moving average of the weights."""
    model_ema_decay: float = 0.99996
    """Share of the average that stays at each step."""
    seed: int = 0
    """Of the weights, the order, and what is dropped."""

    val_data: str | None = None
    """A packed dataset to evaluate on after training."""
    crop_pct: float = 0.875
    """Share of the short side that evaluation keeps."""
    device: str = "auto"
    """auto is CUDA if there is one."""
    precision: Precision = "auto"
    """auto is bfloat16 autocast on CUDA, float32 elsewhere."""
    workers: int = 0
    """Processes that render views; 0 renders in the main one."""
    log_interval: int = 50
    """Batches between two looks at the losses, each a wait for the device."""

    def __post_init__(self) -> None:
        for flag, value, least in (
            ("--epochs", self.epochs, 1),
            ("--batch-size", self.batch_size, 1),
            ("--workers", self.workers, 0),
            ("--seed", self.seed, 0),
            ("--window-shards", self.window_shards, 1),
            ("--views-per-load", self.views_per_load, 1),
            ("--log-interval", self.log_interval, 1),
            ("--steps", 1 if self.steps is None else self.steps, 1),
        ):
            _require(value >= least, f"{flag} {value}", f"It must be {least} or more.")
        for flag, share in (
            ("--distillation-alpha", self.distillation_alpha),
            ("--smoothing", self.smoothing),
            ("--drop-path", self.drop_path),
            ("--crop-pct", self.crop_pct),
        ):
            _require(0 <= share <= 1, f"{flag} {share}", "It must be from 0 to 1.")
        _require(
            self.distillation_tau > 0, f"--distillation-tau {self.distillation_tau}", "It must be above 0."
        )
        _require(
            self.labels is None or self.teacher is None, "--labels and --teacher", "One teacher is enough."
        )
        has_teacher = self.labels is not None or self.teacher is not None
        _require(
            has_teacher or self.distillation == "none",
            f"--distillation {self.distillation} without --labels or --teacher",
            "There is nobody to learn from.",
        )
        _require(
            self.distillation != "none" or not has_teacher,
            "--labels or --teacher with --distillation none",
            "The teacher would not be heard.",
        )
        _require(
            self.labels is None or (self.recipe is None and self.img_size is None),
            "--recipe or --img-size with --labels",
            "The archive brings the recipe whose views it labels, at their size.",
        )
        if self.views is not None:
            parse_views(self.views)
        parse_kwargs(self.model_kwargs)
        parse_kwargs(self.teacher_model_kwargs)
        _ = self.room  # refuses less than nothing

    @property
    def peak_lr(self) -> float:
        """Learning rate after warm-up."""
        return self.lr_base * self.batch_size / 512 if self.lr is None else self.lr


@dataclasses.dataclass(frozen=True)
class EvalConfig(CacheFlags):
    """Print the accuracy of a trained model: of each head, and of both together."""

    checkpoint: str
    """A safetensors file that `student train` wrote."""
    data: str
    """A packed dataset."""
    crop_pct: float = 0.875
    """Share of the short side that is kept."""
    batch_size: int = 256
    """Images in a batch."""
    device: str = "auto"
    """auto is CUDA if there is one."""
    workers: int = 0
    """Processes that render images; 0 renders in the main one."""
    json: bool = False
    """Print the result as JSON."""

    def __post_init__(self) -> None:
        _require(0 < self.crop_pct <= 1, f"--crop-pct {self.crop_pct}", "It must be above 0, and at most 1.")
        _require(self.batch_size >= 1, f"--batch-size {self.batch_size}", "It must be 1 or more.")
        _require(self.workers >= 0, f"--workers {self.workers}", "It must be 0 or more.")
