"""The flags of `extract` and `plan`: what is labelled, and what does the work."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from msgspec import Meta

from pipelines.flags.engines import EngineName
from pipelines.flags.teacher import TeacherFlags
from teacher_cache.errors import InputError
from teacher_cache.labels.encodings import Values
from teacher_cache.program.flags import (
    LABELS,
    PATH,
    Check,
    Flags,
    JsonFlag,
    flag_of,
    parse_kwargs,
    parse_views,
)

DEFAULT_UNIT_TIMEOUT_S = 3600.0
DEFAULT_DRAIN_S = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelRequest(TeacherFlags):
    """Which labels are asked for, and how far a run goes to get them."""

    data: Annotated[str, PATH, LABELS]
    """A packed dataset."""
    teacher: Annotated[str, LABELS]
    """A timm model, such as regnety_160.deit_in1k."""
    out: Annotated[str, PATH, LABELS]
    """The archive: a new folder, or one of the same request."""
    model_kwargs: Annotated[tuple[str, ...], Check(parse_kwargs), LABELS] = ()
    """name=value arguments for timm.create_model."""
    recipe: str = "deit"
    """A named recipe (deit, deit3, rrc, eval), or a YAML file."""
    img_size: Annotated[int | None, Meta(ge=1), LABELS] = None
    """Side of a view in pixels; 224, or what the recipe's file says, if not given."""
    views: Annotated[str, Check(parse_views), LABELS] = "0:1"
    """View indices A:B, from A up to and without B."""
    topk: Annotated[int, Meta(ge=1), LABELS] = 10
    """Classes kept of each label."""
    values: Annotated[Values, LABELS] = "q8"
    """How logits are stored: in eight bits each, or exactly, for research."""
    views_per_unit: Annotated[int | None, Meta(ge=1), LABELS] = None
    """Views computed and stored together; at most 32, in equal blocks, if not given."""
    extends: Annotated[str | None, PATH, LABELS] = None
    """An archive whose labels are not computed again: of fewer views, or of the first image shards."""
    precision: Annotated[Literal["auto", "float32", "bfloat16"], LABELS] = "auto"
    """Of the forward pass: auto is bfloat16 autocast on CUDA, float32 elsewhere."""
    retries: Annotated[int, Meta(ge=0)] = 2
    """How often a unit that failed is tried again, elsewhere if it can be, before it is given up."""
    max_quarantined: Annotated[int, Meta(ge=0)] = 10
    """Units that may be given up before the run stops."""
    max_gpu_hours: Annotated[float | None, Meta(gt=0)] = None
    """Refuse to start where the teacher would run longer than this, all its devices together."""
    run_dir: Annotated[str | None, PATH] = None
    """Where events.jsonl and report.json of this run go; a new folder in OUT.runs if not given."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActorFlags(Flags):
    """How many Ray actors hold a teacher, and what each of them takes."""

    num_actors: Annotated[int | None, Meta(ge=1)] = None
    """Ray actors that hold a teacher; as many as the cluster has room for, if not given."""
    gpus_per_actor: Annotated[float | None, Meta(ge=0)] = None
    """GPUs each actor takes, fractions allowed; 1 where the teacher runs on CUDA, else 0, if not given."""
    cpus_per_actor: Annotated[float | None, Meta(ge=0)] = None
    """CPUs each actor takes; if not given, as many as --workers, and without a GPU a share of a node's."""
    unit_timeout_s: Annotated[float | None, Meta(gt=0)] = None
    """Seconds after which an actor that labelled nothing counts as hung; 3600 if not given."""
    drain_s: Annotated[float | None, Meta(ge=0)] = None
    """Seconds that units under way are given to finish after SIGINT or SIGTERM; 60 if not given."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExtractConfig(ActorFlags, LabelRequest, JsonFlag):
    """Label views of a packed dataset with a teacher; continues where it stopped."""

    engine: EngineName = "local"
    """What runs the units: this process, or actors on a Ray cluster."""
    address: str | None = None
    """A Ray cluster: auto, or host:port; one is started on this machine for the run, if not given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = ["address", *(field.name for field in dataclasses.fields(ActorFlags))]
        given = [flag_of(name) for name in names if getattr(self, name) is not None]
        if self.engine != "ray" and given:
            raise InputError(
                f"{', '.join(given)} with --engine {self.engine}",
                "Only Ray has actors.",
                "give --engine ray, or leave them out",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanConfig(ExtractConfig):
    """Say what an extract of the same flags would do: units, objects, bytes, hours; nothing is written."""

    price_per_gpu_hour: Annotated[float | None, Meta(ge=0)] = None
    """Of a device that runs the teacher, in any currency."""
    epochs: Annotated[int, Meta(ge=1)] = 300
    """Of a student's run, for how many runs it takes until stored labels cost less than a live teacher."""
