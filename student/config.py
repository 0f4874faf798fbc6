"""The flags of `student`, a frozen dataclass per command, spelt as timm's and DeiT's."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional

from student.terms import Distillation
from teacher_cache.errors import InputError
from teacher_cache.labels.tail_rules import DEFAULT_TAIL, Tail
from teacher_cache.program.commandline import parse_kwargs, parse_views
from teacher_cache.storage.cache import CacheFlags

Reduction = Literal["batchmean", "numel"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Resume = Literal["never", "auto"]


def _also(*names: str) -> object:
    """Other spellings of a flag: DeiT's."""
    return tyro.conf.arg(aliases=names)


def _require(allowed: bool, value: str, rule: str) -> None:
    if not allowed:
        raise InputError(value, rule, "see --help")


@dataclasses.dataclass(frozen=True)
class TrainConfig(CacheFlags):
    """Train a model on views of a packed dataset, with stored labels, a live teacher, or neither."""

    data: Annotated[str, _also("--data-path")]
    """A packed dataset."""
    output: Annotated[str, _also("--output-dir")]
    """Folder for metrics and checkpoints, new unless --resume is auto."""
    resume: Resume = "never"
    """auto goes on where the run in --output stopped, at the very next view, or begins one."""
    dry_run: bool = False
    """Print what the run would be, and do nothing."""
    model: str = "deit_tiny_distilled_patch16_224"
    """A timm model; of a deit_*_distilled_* one the distillation token is trained."""
    pretrained: bool = False
    """Begin with weights from the hub."""
    finetune: Annotated[str | None, _also("--initial-checkpoint")] = None
    """Begin with a file's weights: positions interpolated to the views' size, new heads for new classes."""
    model_kwargs: tuple[str, ...] = ()
    """name=value arguments for timm.create_model."""

    distillation: Annotated[Distillation, _also("--distillation-type")] = "none"
    """What the teacher teaches: nothing, its probabilities, or its top class."""
    distillation_token: bool = False
    """Insist on a model with a distillation token; one without is taught through its only head."""
    labels: str | None = None
    """An archive of the teacher's labels; it brings its own recipe."""
    teacher: Annotated[str | None, _also("--teacher-model")] = None
    """A timm model to ask live, instead of an archive."""
    teacher_checkpoint: Annotated[str | None, _also("--teacher-path")] = None
    """Its weights: a safetensors file, or a torch file of weights alone."""
    teacher_pretrained: bool = True
    """Its weights from the hub, where no --teacher-checkpoint is given."""
    teacher_model_kwargs: tuple[str, ...] = ()
    """name=value arguments for its timm.create_model."""
    distillation_alpha: float = 0.5
    """Weight of the teacher's term, the rest is the true labels'; the paper's soft runs take 0.1."""
    distillation_tau: float = 3.0
    """Temperature of soft distillation."""
    kd_reduction: Reduction = "batchmean"
    """Soft term: a mean over samples (the paper, eq. 2), or over classes too (DeiT's code): C times less."""
    tail: Tail = DEFAULT_TAIL
    """What soft labels say of classes they do not name: see docs/labels.md."""

    recipe: str | None = None
    """A named recipe or a YAML file, where no --labels are given; deit if not given either."""
    img_size: Annotated[int | None, _also("--input-size")] = None
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
    """Length of the run in updates, instead of --epochs."""
    batch_size: int = 256
    """Views in a batch of one process."""
    grad_accum_steps: int = 1
    """Batches that make one update."""
    opt: str = "adamw"
    """A timm optimizer."""
    lr: float | None = None
    """Learning rate; if not given, --lr-base * views of an update, of all processes, / 512."""
    lr_base: float = 5e-4
    """Learning rate at 512 views an update (DeiT, Table 9)."""
    min_lr: float = 1e-5
    """At the end of the cosine; the peak, if that is lower."""
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
    """Also keep an exponential moving average of the weights, and evaluate it."""
    model_ema_decay: float = 0.99996
    """Share of the average that stays at each step."""
    seed: int = 0
    """Of the weights, the order, and what is dropped."""

    val_data: str | None = None
    """A packed dataset to evaluate on."""
    val_interval: int | None = None
    """Epochs between two evaluations; at the end alone if not given. The best weights are kept."""
    crop_pct: float = 0.875
    """Share of the short side that evaluation keeps."""
    device: str = "auto"
    """auto is CUDA if there is one."""
    precision: Precision = "auto"
    """auto is bfloat16 autocast on CUDA, float32 elsewhere; float16 scales the loss."""
    torchcompile: str | None = None
    """Compile the model with this torch backend, such as inductor."""
    workers: int = 0
    """Processes that render views; 0 renders in the main one."""
    log_interval: int = 50
    """Updates between two looks at the losses, each a wait for the device."""
    checkpoint_interval: int = 1000
    """Updates between two checkpoints, from which --resume auto goes on."""
    checkpoint_hist: int = 2
    """Checkpoints to keep."""
    tensorboard: bool = False
    """Also write the metrics for TensorBoard, to OUTPUT/tensorboard."""
    log_wandb: bool = False
    """Also log the metrics to Weights & Biases."""
    wandb_project: str = "teacher-cache"
    """Project there."""
    push_to_hub: str | None = None
    """Hugging Face repository OWNER/NAME that gets the final weights."""

    ray: bool = False
    """Run in processes that Ray Train starts."""
    ray_ranks: int = 1
    """Processes of --ray; on CUDA each has a GPU."""
    ray_address: str | None = None
    """Ray cluster of --ray; one is started on this machine if not given."""

    def __post_init__(self) -> None:
        for flag, value, least in (
            ("--epochs", self.epochs, 1),
            ("--batch-size", self.batch_size, 1),
            ("--workers", self.workers, 0),
            ("--seed", self.seed, 0),
            ("--window-shards", self.window_shards, 1),
            ("--views-per-load", self.views_per_load, 1),
            ("--log-interval", self.log_interval, 1),
            ("--grad-accum-steps", self.grad_accum_steps, 1),
            ("--checkpoint-interval", self.checkpoint_interval, 1),
            ("--checkpoint-hist", self.checkpoint_hist, 1),
            ("--ray-ranks", self.ray_ranks, 1),
            ("--val-interval", 1 if self.val_interval is None else self.val_interval, 1),
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
        for flag, number, is_allowed, rule in (
            ("--lr", self.lr, self.lr is None or self.lr > 0, "It must be above 0."),
            ("--lr-base", self.lr_base, self.lr_base > 0, "It must be above 0."),
            ("--min-lr", self.min_lr, self.min_lr >= 0, "It must be 0 or more."),
            ("--warmup-lr", self.warmup_lr, self.warmup_lr >= 0, "It must be 0 or more."),
            ("--warmup-epochs", self.warmup_epochs, self.warmup_epochs >= 0, "It must be 0 or more."),
            ("--weight-decay", self.weight_decay, self.weight_decay >= 0, "It must be 0 or more."),
            (
                "--clip-grad",
                self.clip_grad,
                self.clip_grad is None or self.clip_grad > 0,
                "It must be above 0.",
            ),
            (
                "--model-ema-decay",
                self.model_ema_decay,
                0 <= self.model_ema_decay < 1,
                "It must be from 0 to below 1.",
            ),
        ):
            _require(is_allowed, f"{flag} {number}", rule)
        _require(
            self.ray or (self.ray_ranks == 1 and self.ray_address is None),
            "--ray-ranks or --ray-address without --ray",
            "They are Ray Train's; without it this process would train alone.",
        )
        _require(
            self.val_data is not None or self.val_interval is None,
            "--val-interval without --val-data",
            "There is nothing to evaluate on.",
        )
        _require(
            self.teacher is not None or self.teacher_checkpoint is None,
            "--teacher-checkpoint without --teacher",
            "Its weights would not be asked.",
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
        _require(
            not (self.pretrained and self.finetune),
            "--pretrained and --finetune",
            "Only one of them can be what training begins with.",
        )
        _require(
            self.kd_reduction == "batchmean" or self.distillation == "soft",
            f"--kd-reduction {self.kd_reduction} with --distillation {self.distillation}",
            "Only the soft term is reduced.",
        )
        if self.views is not None:
            parse_views(self.views)
        parse_kwargs(self.model_kwargs)
        parse_kwargs(self.teacher_model_kwargs)
        _ = self.room  # refuses less than nothing


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


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """Write one page with the curves and tables of one or several runs, side by side."""

    runs: Positional[tuple[str, ...]]
    """Their output folders."""
    out: str = "report.html"
    """The page."""

    def __post_init__(self) -> None:
        _require(bool(self.runs), "no run", "There is nothing to report.")


@dataclasses.dataclass(frozen=True)
class RunsConfig:
    """List the named runs that `train --run NAME` knows: command, hardware, hours, accuracy."""
