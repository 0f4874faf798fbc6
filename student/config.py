"""The flags of `student`, a frozen dataclass per command, spelt as timm's and DeiT's."""

from __future__ import annotations

import dataclasses
import json
from typing import Annotated, Any, Literal

import tyro
from msgspec import Meta
from tyro.conf import Positional

from student.terms import Distillation
from teacher_cache.errors import InputError, masked
from teacher_cache.labels.tail_rules import DEFAULT_TAIL, Tail
from teacher_cache.program.flags import (
    PATH,
    RESUMABLE,
    TEACHER,
    CacheFlags,
    Check,
    Flags,
    JsonFlag,
    KeyFlags,
    flag_of,
    parse_kwargs,
    parse_views,
)

Reduction = Literal["batchmean", "numel"]
Precision = Literal["auto", "float32", "bfloat16", "float16"]
Resume = Literal["never", "auto"]

Positive = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
Kwargs = Annotated[tuple[str, ...], Check(parse_kwargs)]


def _also(*names: str) -> object:
    """Return the setting that gives a flag more names, those of timm's and DeiT's scripts."""
    return tyro.conf.arg(aliases=names)


def _refuse(found: str, consequence: str, remedy: str) -> None:
    raise InputError(found, consequence, remedy)


@dataclasses.dataclass(frozen=True)
class TrainConfig(KeyFlags, CacheFlags):
    """Train a model on views of a packed dataset, with stored labels, a live teacher, or neither."""

    data: Annotated[str, PATH, RESUMABLE, _also("--data-path")]
    """Packed dataset to train on."""
    output: Annotated[str, PATH, RESUMABLE, _also("--output-dir")]
    """Folder for metrics and checkpoints, new unless --resume is auto."""
    resume: Annotated[Resume, RESUMABLE] = "never"
    """Whether to resume the run in --output: auto continues at its next view, or starts a new run."""
    dry_run: Annotated[bool, RESUMABLE] = False
    """Print what the run would do, and do nothing."""
    model: str = "deit_tiny_distilled_patch16_224"
    """Name of a timm model; a deit_*_distilled_* one has a distillation token, which is trained."""
    pretrained: Annotated[bool, RESUMABLE] = False
    """Start from the model's pretrained weights on the hub."""
    finetune: Annotated[str | None, PATH, RESUMABLE, _also("--initial-checkpoint")] = None
    """File of initial weights: position embeddings are interpolated; heads of other classes start fresh."""
    model_kwargs: Kwargs = ()
    """Arguments name=value for timm.create_model."""

    distillation: Annotated[Distillation, _also("--distillation-type")] = "none"
    """Term of the teacher: none, soft (its probabilities), or hard (its top class)."""
    distillation_token: bool = False
    """Require a distillation token; by default, a model without one learns from the teacher by its head."""
    labels: Annotated[tuple[str, ...], PATH, RESUMABLE] = ()
    """Archive of teacher labels, which brings its own recipe; several teach by their mean probabilities."""
    follow: Annotated[bool, RESUMABLE] = False
    """Start before all labels exist, and wait for each that `teacher-cache extract --followed` is making."""
    follow_timeout_s: Annotated[float, Meta(gt=0), RESUMABLE] = 3600.0
    """Seconds without a status update from the labelling job, after which a run with --follow stops."""
    label_weights: tuple[float, ...] = ()
    """Weight of each archive of --labels in the mean; equal by default."""
    teacher: Annotated[str | None, TEACHER, _also("--teacher-model")] = None
    """Teacher that labels views live, with no archive: a timm name, or hf:, clip: or python: with a name."""
    teacher_checkpoint: Annotated[str | None, PATH, RESUMABLE, _also("--teacher-path")] = None
    """File of the live teacher's weights: safetensors, or a torch file of weights alone."""
    teacher_pretrained: bool = True
    """Load the live teacher's weights from the hub where --teacher-checkpoint is absent."""
    teacher_model_kwargs: Kwargs = ()
    """Arguments name=value for the live teacher's timm.create_model, or its factory."""
    teacher_prompts: Annotated[str | None, PATH, RESUMABLE] = None
    """File of class prompts for a live teacher clip:MODEL/TAG: lines with {} for the class, or JSON lists."""
    teacher_class_map: Annotated[str | None, PATH, RESUMABLE] = None
    """JSON or YAML file of the live teacher's class, or classes to be summed, for each dataset class."""
    distillation_alpha: Share = 0.5
    """Weight of the teacher's term; the true labels' term has the rest. The paper's soft runs take 0.1."""
    distillation_tau: Annotated[float, Meta(gt=0)] = 3.0
    """Temperature of soft distillation."""
    kd_reduction: Reduction = "batchmean"
    """Mean of the soft term: over samples (batchmean, paper), or over C classes too (numel, DeiT's code)."""
    tail: Tail = DEFAULT_TAIL
    """Rule that spreads a soft label's tail mass over the classes it does not name: see docs/labels.md."""

    recipe: Annotated[str | None, RESUMABLE] = None
    """Name or YAML file of a recipe, where --labels is absent; deit by default."""
    img_size: Annotated[int | None, Meta(ge=1), RESUMABLE, _also("--input-size")] = None
    """Side of a view in pixels, where --labels is absent; 224, or the recipe file's, by default."""
    views: Annotated[str | None, Check(parse_views)] = None
    """View indices A:B, one an epoch, in a cycle; by default the archive's, or a new one each epoch."""
    views_per_load: Positive = 1
    """Views rendered each time an image is decoded (repeated augmentation); an epoch keeps its length."""
    views_together: bool = False
    """Put all views of a decoded image into one batch; by default they go to consecutive batches."""
    window_shards: Positive = 16
    """Shards that are shuffled together."""

    epochs: Positive = 300
    """Passes over the dataset."""
    steps: Annotated[int | None, Meta(ge=1)] = None
    """Updates of the run, in place of --epochs."""
    batch_size: Annotated[Positive, RESUMABLE] = 256
    """Views in a batch of one process."""
    grad_accum_steps: Annotated[Positive, RESUMABLE] = 1
    """Batches that make one update."""
    opt: str = "adamw"
    """Name of a timm optimizer."""
    lr: Annotated[float | None, Meta(gt=0)] = None
    """Peak learning rate; by default --lr-base * views of an update, over all processes, / 512."""
    lr_base: Annotated[float, Meta(gt=0)] = 5e-4
    """Peak learning rate at 512 views an update (DeiT, Table 9)."""
    min_lr: Annotated[float, Meta(ge=0)] = 1e-5
    """Final learning rate, at most the peak."""
    warmup_epochs: Annotated[float, Meta(ge=0)] = 5.0
    """Epochs of linear warm-up, at most a fifth of the run."""
    warmup_lr: Annotated[float, Meta(ge=0)] = 1e-6
    """Initial warm-up learning rate."""
    weight_decay: Annotated[float, Meta(ge=0)] = 0.05
    """Weight decay, for weights of more than one dimension."""
    smoothing: Share = 0.1
    """Label smoothing of the true labels; teacher labels are never smoothed."""
    drop_path: Share = 0.0
    """Rate of stochastic depth; DeiT takes 0.1."""
    clip_grad: Annotated[float | None, Meta(gt=0)] = None
    """Maximum norm of all gradients together, to which larger ones are clipped; no clipping by default."""
    model_ema: bool = False
    """Keep an exponential moving average of the weights too, and evaluate it."""
    model_ema_decay: Annotated[float, Meta(ge=0, lt=1)] = 0.99996
    """Decay of the average: the share of it that is kept at each update."""
    seed: Annotated[int, Meta(ge=0)] = 0
    """Seed of the weights, the order of samples, and dropout."""

    val_data: Annotated[str | None, PATH, RESUMABLE] = None
    """Packed dataset to evaluate on."""
    val_interval: Annotated[int | None, Meta(ge=1), RESUMABLE] = None
    """Epochs between two evaluations; one at the end by default. The best weights are kept."""
    crop_pct: Annotated[Share, RESUMABLE] = 0.875
    """Share of the short side that evaluation keeps."""
    device: Annotated[str, RESUMABLE] = "auto"
    """Device of the model; auto takes CUDA where there is one."""
    precision: Precision = "auto"
    """Type of the forward pass: auto takes bfloat16 on CUDA, float32 elsewhere; float16 scales the loss."""
    torchcompile: Annotated[str | None, RESUMABLE] = None
    """Torch backend that compiles the model, such as inductor."""
    workers: Annotated[int, Meta(ge=0), RESUMABLE] = 0
    """Processes that render views; 0 renders in the main process."""
    log_interval: Annotated[Positive, RESUMABLE] = 50
    """Most updates between reads of the losses, which wait for the device; they are also read every 2 s."""
    checkpoint_interval: Annotated[Positive, RESUMABLE] = 1000
    """Updates between two checkpoints, from which --resume auto continues."""
    checkpoint_hist: Annotated[Positive, RESUMABLE] = 2
    """Checkpoints to keep."""
    tensorboard: Annotated[bool, RESUMABLE] = False
    """Write the metrics for TensorBoard too, to OUTPUT/tensorboard."""
    log_wandb: Annotated[bool, RESUMABLE] = False
    """Log the metrics to Weights & Biases too."""
    wandb_project: Annotated[str, RESUMABLE] = "teacher-cache"
    """Project of the run at Weights & Biases."""
    push_to_hub: Annotated[str | None, RESUMABLE] = None
    """Hugging Face repository OWNER/NAME for the final weights."""

    ray: Annotated[bool, RESUMABLE] = False
    """Run in processes that Ray Train starts."""
    ray_ranks: Annotated[Positive, RESUMABLE] = 1
    """Processes of --ray; on CUDA each has a GPU."""
    ray_address: Annotated[str | None, RESUMABLE] = None
    """Address of the Ray cluster for --ray; by default one is started on this machine."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_teacher()
        if not self.ray and (self.ray_ranks != 1 or self.ray_address is not None):
            _refuse(
                "--ray-ranks or --ray-address without --ray",
                "Only Ray Train uses these flags; without it, this process would train alone.",
                "add --ray, or remove these flags",
            )
        if self.val_data is None and self.val_interval is not None:
            _refuse(
                "--val-interval without --val-data", "There is nothing to evaluate on.", "give --val-data too"
            )
        if self.labels and (self.recipe is not None or self.img_size is not None):
            _refuse(
                "--recipe or --img-size with --labels",
                "The recipe and the image size are those of the archive.",
                "remove --recipe and --img-size",
            )
        if self.pretrained and self.finetune:
            _refuse("--pretrained and --finetune", "Training begins with one set of weights.", "give one")
        if self.kd_reduction != "batchmean" and self.distillation != "soft":
            _refuse(
                f"--kd-reduction {self.kd_reduction} with --distillation {self.distillation}",
                "Only the soft term is reduced.",
                "give --distillation soft, or leave --kd-reduction out",
            )

    def _check_teacher(self) -> None:
        has_teacher = bool(self.labels) or self.teacher is not None
        for name in ("teacher_checkpoint", "teacher_prompts", "teacher_class_map"):
            if self.teacher is None and getattr(self, name) is not None:
                _refuse(f"{flag_of(name)} without --teacher", "It would not be used.", "give --teacher")
        if self.labels and self.teacher is not None:
            _refuse("--labels and --teacher", "A run has one teacher.", "give either --labels or --teacher")
        if self.follow and not self.labels:
            _refuse("--follow without --labels", "There is no job to follow.", "give --labels ARCHIVE")
        if self.distillation != "none" and not has_teacher:
            _refuse(
                f"--distillation {self.distillation} without --labels or --teacher",
                "No teacher is given.",
                "give --labels ARCHIVE or --teacher MODEL",
            )
        if self.distillation == "none" and has_teacher:
            _refuse(
                "--labels or --teacher with --distillation none",
                "The teacher would not be used.",
                "choose --distillation hard or soft",
            )


@dataclasses.dataclass(frozen=True)
class EvalConfig(CacheFlags, JsonFlag):
    """Print the accuracy of a trained model: of each head, and of both together."""

    checkpoint: Annotated[str, PATH]
    """Safetensors file that `student train` wrote."""
    data: Annotated[str, PATH]
    """Packed dataset to evaluate on."""
    crop_pct: Annotated[float, Meta(gt=0, le=1)] = 0.875
    """Share of the short side that is kept."""
    batch_size: Positive = 256
    """Images in a batch."""
    device: str = "auto"
    """Device of the model; auto takes CUDA where there is one."""
    workers: Annotated[int, Meta(ge=0)] = 0
    """Processes that render images; 0 renders in the main process."""


@dataclasses.dataclass(frozen=True)
class ReportConfig(Flags):
    """Write one page with the curves and tables of one or several runs, side by side."""

    runs: Positional[tuple[str, ...]]
    """Output folders of the runs."""
    out: str = "report.html"
    """File of the page."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.runs:
            _refuse("no run", "There is nothing to report.", "give the --output of a run")


@dataclasses.dataclass(frozen=True)
class RunsConfig:
    """List the named runs that `train --run NAME` knows: command, hardware, hours, accuracy."""


def kept_flags(config: TrainConfig) -> dict[str, Any]:
    """Return the flags of a run as JSON values that may be kept and shown, with passwords in URLs masked."""
    return json.loads(masked(json.dumps(dataclasses.asdict(config))))
