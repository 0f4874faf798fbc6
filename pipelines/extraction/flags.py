"""Flags of `extract` and `plan`: the teacher, the labels to compute, and the engine that computes them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from msgspec import Meta

from teacher_cache.errors import InputError
from teacher_cache.labels.encodings import Values
from teacher_cache.models.kinds import Precision, TeacherSettings
from teacher_cache.program.flags import (
    LABELS,
    PATH,
    TEACHER,
    CacheFlags,
    Check,
    Flags,
    JsonFlag,
    KeyFlags,
    flag_of,
    modules_in,
    parse_kwargs,
    parse_views,
)

ENGINES = tuple(name for name in modules_in("pipelines.extraction.engines") if name != "engine")
"""Engines: engines/NAME.py has a class NameEngine, made from (make_worker, settings)."""

if TYPE_CHECKING:
    EngineName = str
else:
    EngineName = Literal[ENGINES]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherFlags(CacheFlags):
    """Weights of a teacher, and settings of its forward pass, which change labels' last bits at most."""

    checkpoint: Annotated[str | None, PATH, LABELS] = None
    """File of the teacher's weights, instead of the hub's: safetensors, or a torch file of weights alone."""
    pretrained: Annotated[bool, LABELS] = True
    """Load weights from the hub if --checkpoint is absent; --no-pretrained takes seeded random weights."""
    device: str = "auto"
    """Device of the teacher; auto takes CUDA where there is one."""
    batch_size: Annotated[int, Meta(ge=1)] = 64
    """Views in one forward pass; equal values give equal bytes on the same kind of device."""
    workers: Annotated[int, Meta(ge=0), tyro.conf.arg(aliases=["--render-workers"])] = 0
    """Processes that render views for a teacher; 0 renders in the teacher's process."""
    prompts: Annotated[str | None, PATH, LABELS] = None
    """Prompts of the classes, for a teacher clip:MODEL/TAG: lines with {} for the class, or JSON lists."""
    class_map: Annotated[str | None, PATH, LABELS] = None
    """JSON or YAML file that maps each class of the dataset to one of the teacher's, or to several to sum."""
    model_kwargs: Annotated[tuple[str, ...], Check(parse_kwargs), LABELS] = ()
    """Arguments name=value for timm.create_model, or for the factory of a teacher python:MODULE:FACTORY."""
    channels_last: bool = True
    """Store the teacher's weights in the pixels' channels-last layout."""
    compile: bool = False
    """Compile the teacher with torch.compile."""

    def settings(self, teacher: str, precision: Precision = "auto") -> TeacherSettings:
        """Return the teacher that the flags ask for, by its name."""
        return TeacherSettings(
            name=teacher,
            checkpoint=self.checkpoint,
            pretrained=self.pretrained,
            model_kwargs=parse_kwargs(self.model_kwargs),
            prompts=self.prompts,
            class_map=self.class_map,
            precision=precision,
            device=self.device,
            channels_last=self.channels_last,
            compiled=self.compile,
        )


DEFAULT_UNIT_TIMEOUT_S = 3600.0
DEFAULT_DRAIN_S = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelFlags(KeyFlags, TeacherFlags):
    """Labels to compute, and the limits of a run."""

    data: Annotated[str, PATH, LABELS]
    """Packed dataset to label."""
    teacher: Annotated[str, TEACHER, LABELS]
    """Name of a timm model, such as regnety_160.deit_in1k, or hf:, clip: or python: with a name."""
    out: Annotated[str, PATH, LABELS]
    """Archive to write: a new folder, or an archive of the same request."""
    recipe: str = "deit"
    """Name of a recipe (deit, deit3, rrc, eval), or a YAML file."""
    img_size: Annotated[int | None, Meta(ge=1), LABELS] = None
    """Side of a view in pixels; 224, or the recipe file's, by default."""
    views: Annotated[str, Check(parse_views), LABELS] = "0:1"
    """Range A:B of view indices, from A up to but excluding B."""
    topk: Annotated[int, Meta(ge=1), LABELS] = 10
    """Classes kept of each label."""
    affinity: Annotated[Literal["calibrated", "none"], LABELS] = "calibrated"
    """Class affinity, which sharpens the tails of soft labels; none saves its calibration views."""
    components: Annotated[int | None, Meta(ge=1, le=4096), LABELS] = None
    """Codes of each label that keep the shape of its tail, in a basis calibrated in place of the affinity."""
    values: Annotated[Values, LABELS] = "q8"
    """Format of stored logits: eight bits each (q8), or float32, for research."""
    views_per_unit: Annotated[int | None, Meta(ge=1), LABELS] = None
    """Views computed and stored together; by default equal blocks of at most 32."""
    extends: Annotated[str | None, PATH, LABELS] = None
    """Archive of fewer views, or of the first image shards, whose labels are not computed again."""
    catalog: Annotated[tuple[str, ...], PATH] = ()
    """Folders or buckets with a catalog of archives; units of the same fingerprint are taken from them."""
    catalog_key: Annotated[str | None, PATH] = None
    """File of pinned keys for the archives that --catalog uses; that of --key by default."""
    precision: Annotated[Precision, LABELS] = "auto"
    """Type of the forward pass: auto takes bfloat16 autocast on CUDA, float32 elsewhere."""
    retries: Annotated[int, Meta(ge=0)] = 2
    """Times that a failed unit is tried again, on another node if possible, before it is given up."""
    max_quarantined: Annotated[int, Meta(ge=0)] = 10
    """Units that may be given up before the run stops."""
    max_gpu_hours: Annotated[float | None, Meta(gt=0)] = None
    """Limit of the teacher's time on all devices together; a run is refused or stops before it is passed."""
    allow_disagreement: bool = False
    """Label even if the teacher's classes seem to be others than the dataset's, or in another order."""
    run_dir: Annotated[str | None, PATH] = None
    """Folder for events.jsonl and report.json of this run; a new folder in OUT.runs by default."""
    followed: bool = False
    """Label in the order of students with --follow, in units of one view beside OUT; write OUT at the end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.components is not None and self.values != "q8":
            raise InputError(
                f"--components {self.components} with --values {self.values}",
                "Codes are stored in eight bits, beside logits of eight bits.",
                "remove --values, or --components",
            )
        if self.followed and self.extends is not None:
            raise InputError(
                "--followed with --extends",
                "Students that follow could not read the other archive's labels before the job ends.",
                "copy its units with --catalog instead of --extends, or remove --followed",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActorFlags(Flags):
    """Number of Ray actors that hold a teacher, and the resources of each."""

    num_actors: Annotated[int | None, Meta(ge=1)] = None
    """Ray actors that hold a teacher; by default as many as the cluster has room for."""
    gpus_per_actor: Annotated[float | None, Meta(ge=0)] = None
    """GPUs of each actor, fractions allowed; by default 1 if the teacher runs on CUDA, else 0."""
    cpus_per_actor: Annotated[float | None, Meta(ge=0)] = None
    """CPUs of each actor; by default --workers, or an equal share of all if --num-actors use no GPU."""
    unit_timeout_s: Annotated[float | None, Meta(gt=0)] = None
    """Seconds after which an actor that labelled nothing counts as hung; 3600 by default."""
    drain_s: Annotated[float | None, Meta(ge=0)] = None
    """Seconds that running units have to finish after SIGINT or SIGTERM; 60 by default."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExtractConfig(ActorFlags, LabelFlags, JsonFlag):
    """Label views of a packed dataset with a teacher; the same command continues a stopped run."""

    engine: EngineName = "local"
    """Engine that runs the units: this process, or actors on a Ray cluster."""
    address: str | None = None
    """Address of a Ray cluster: auto, or host:port; by default one is started on this machine for the run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = ["address", *(field.name for field in dataclasses.fields(ActorFlags))]
        given = [flag_of(name) for name in names if getattr(self, name) is not None]
        if self.engine != "ray" and given:
            raise InputError(
                f"{', '.join(given)} with --engine {self.engine}",
                "These flags apply only to Ray.",
                "give --engine ray, or remove the flags",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanConfig(ExtractConfig):
    """Print what an extract with these flags would do: units, objects, bytes, hours; nothing is written."""

    price_per_gpu_hour: Annotated[float | None, Meta(ge=0)] = None
    """Price of an hour of a device that runs the teacher, in any currency."""
    epochs: Annotated[int, Meta(ge=1)] = 300
    """Epochs of a student's run, to count the runs until stored labels cost less than a live teacher."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ArchiveTeacherFlags(TeacherFlags):
    """Teacher that labels an archive's views again; a timm model is loaded by its name in the archive."""

    teacher: Annotated[str | None, TEACHER] = None
    """Archive's teacher; required unless it is a timm model, since archives may not name code to load."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model_kwargs and self.teacher is None:
            raise InputError(
                f"--model-kwargs {' '.join(self.model_kwargs)} without --teacher",
                "The archive already holds the arguments of its timm model.",
                "give --teacher, or remove --model-kwargs",
            )
