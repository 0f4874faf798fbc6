"""The flags of `extract` and `plan`: what is labelled, and what does the work."""

from __future__ import annotations

import dataclasses
from typing import Literal, TypeVar

from pipelines.flags.engines import EngineName
from pipelines.flags.teacher import TeacherFlags
from teacher_cache.errors import InputError
from teacher_cache.labels.encodings import Values
from teacher_cache.program.commandline import at_least, parse_kwargs, parse_views, with_absolute_paths

DEFAULT_UNIT_TIMEOUT_S = 3600.0
DEFAULT_DRAIN_S = 60.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelRequest(TeacherFlags):
    """Which labels are asked for, and how far a run goes to get them."""

    data: str
    """A packed dataset."""
    teacher: str
    """A timm model, such as regnety_160.deit_in1k."""
    out: str
    """The archive: a new folder, or one of the same request."""
    model_kwargs: tuple[str, ...] = ()
    """name=value arguments for timm.create_model."""
    recipe: str = "deit"
    """A named recipe (deit, deit3, rrc, eval), or a YAML file."""
    img_size: int | None = None
    """Side of a view in pixels; 224, or what the recipe's file says, if not given."""
    views: str = "0:1"
    """View indices A:B, from A up to and without B."""
    topk: int = 10
    """Classes kept of each label."""
    values: Values = "q8"
    """How logits are stored: in eight bits each, or exactly, for research."""
    views_per_unit: int | None = None
    """Views computed and stored together; at most 32, in equal blocks, if not given."""
    extends: str | None = None
    """An archive whose labels are not computed again: of fewer views, or of the first image shards."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the forward pass: auto is bfloat16 autocast on CUDA, float32 elsewhere."""
    retries: int = 2
    """How often a unit that failed is tried again, elsewhere if it can be, before it is given up."""
    max_quarantined: int = 10
    """Units that may be given up before the run stops."""
    max_gpu_hours: float | None = None
    """Refuse to start where the teacher would run longer than this, all its devices together."""
    run_dir: str | None = None
    """Where events.jsonl and report.json of this run go; a new folder in OUT.runs if not given."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("--topk", self.topk, 1)
        at_least("--views-per-unit", self.views_per_unit, 1)
        at_least("--retries", self.retries, 0)
        at_least("--max-quarantined", self.max_quarantined, 0)
        if self.max_gpu_hours is not None and not self.max_gpu_hours > 0:
            raise InputError(
                f"--max-gpu-hours {self.max_gpu_hours}", "Nothing could be done.", "choose more than 0"
            )
        parse_views(self.views)
        parse_kwargs(self.model_kwargs)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ActorFlags:
    """How many Ray actors hold a teacher, and what each of them takes."""

    num_actors: int | None = None
    """Ray actors that hold a teacher; as many as the cluster has room for, if not given."""
    gpus_per_actor: float | None = None
    """GPUs each actor takes, fractions allowed; 1 where the teacher runs on CUDA, else 0, if not given."""
    cpus_per_actor: float | None = None
    """CPUs each actor takes; if not given, as many as --workers, and without a GPU a share of a node's."""
    unit_timeout_s: float | None = None
    """Seconds after which an actor that labelled nothing counts as hung; 3600 if not given."""
    drain_s: float | None = None
    """Seconds that units under way are given to finish after SIGINT or SIGTERM; 60 if not given."""

    def check_actors(self) -> None:
        """Refuse numbers that mean nothing. Raises InputError."""
        at_least("--num-actors", self.num_actors, 1)
        if self.unit_timeout_s == 0:
            raise InputError("--unit-timeout-s 0", "Every actor would count as hung.", "choose more than 0")
        for flag, value in (
            ("--gpus-per-actor", self.gpus_per_actor),
            ("--cpus-per-actor", self.cpus_per_actor),
            ("--unit-timeout-s", self.unit_timeout_s),
            ("--drain-s", self.drain_s),
        ):
            if value is not None and value < 0:
                raise InputError(f"{flag} {value}", "It must be 0 or more.", f"choose {flag} 0 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExtractConfig(ActorFlags, LabelRequest):
    """Label views of a packed dataset with a teacher; continues where it stopped."""

    engine: EngineName = "local"
    """What runs the units: this process, or actors on a Ray cluster."""
    address: str | None = None
    """A Ray cluster: auto, or host:port; one is started on this machine for the run, if not given."""
    json: bool = False
    """Print the result as JSON."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_actors()
        names = ["address", *(field.name for field in dataclasses.fields(ActorFlags))]
        given = [f"--{name.replace('_', '-')}" for name in names if getattr(self, name) is not None]
        if self.engine != "ray" and given:
            raise InputError(
                f"{', '.join(given)} with --engine {self.engine}",
                "Only Ray has actors.",
                "give --engine ray, or leave them out",
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanConfig(ExtractConfig):
    """Say what an extract of the same flags would do: units, objects, bytes, hours; nothing is written."""

    price_per_gpu_hour: float | None = None
    """Of a device that runs the teacher, in any currency."""
    epochs: int = 300
    """Of a student's run, for how many runs it takes until stored labels cost less than a live teacher."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("--epochs", self.epochs, 1)
        if self.price_per_gpu_hour is not None and self.price_per_gpu_hour < 0:
            raise InputError(
                f"--price-per-gpu-hour {self.price_per_gpu_hour}", "It must be 0 or more.", "correct it"
            )


_PATHS = ("data", "out", "checkpoint", "extends", "run_dir", "cache_dir")
Request = TypeVar("Request", bound=LabelRequest)


def absolute(request: Request) -> Request:
    """Return a request whose paths mean the same in every process: workers have other working folders."""
    return with_absolute_paths(request, _PATHS)
