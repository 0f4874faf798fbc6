"""Ask: the labels that a user wants, by names of the configuration; and the one job that makes them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pydantic
from pydantic import Field

from pipelines.service.config import NAME_PATTERN, LocalSection, RaySection, ServiceConfig
from teacher_cache.dataset.index import read_info
from teacher_cache.errors import InputError, StoreError, nearest
from teacher_cache.exact.canonical import sha256_of
from teacher_cache.labels.encodings import Values
from teacher_cache.program.flags import parse_views
from teacher_cache.storage.store import Store
from teacher_cache.views.recipe import load_recipe

NamePart = Annotated[str, Field(pattern=NAME_PATTERN)]


class Ask(pydantic.BaseModel, frozen=True, extra="forbid", strict=True):
    """Labels that a user asks for.

    Attributes:
        img_size: Side of a view in pixels; the recipe's by default.
        affinity: Class affinity: calibrated or none.
        follow: Whether a student will follow the job: labels come one view at a time.
        webhook: URL to notify when the job ends, on a host that the configuration allows.
    """

    data: NamePart
    teacher: NamePart
    recipe: NamePart = "deit"
    views: Annotated[str, Field(pattern=r"^[0-9]{1,7}:[0-9]{1,7}$")] = "0:1"
    img_size: Annotated[int, Field(ge=1, le=4096)] | None = None
    topk: Annotated[int, Field(ge=1, le=65535)] = 10
    values: Values = "q8"
    affinity: Literal["calibrated", "none"] = "calibrated"
    follow: bool = False
    webhook: Annotated[str, Field(max_length=1024)] | None = None


@dataclasses.dataclass(frozen=True)
class LabelSet:
    """Labels of a dataset by a teacher under a recipe, of any views: what one archive holds.

    Attributes:
        id: Digest of every setting in the configuration and the ask that determines the labels.
        archive: Path of the archive below the root of archives.
        flags: Flags of `extract`, without views.
    """

    id: str
    archive: str
    flags: dict[str, Any]


@functools.cache
def _recipe_sha256(recipe: str, img_size: int | None) -> str:
    return load_recipe(recipe, img_size).sha256


@functools.cache
def _dataset_sha256(url: str) -> str:
    return read_info(Store(url)).sha256


def label_set_of(ask: Ask, config: ServiceConfig) -> LabelSet:
    """Return the label set of an ask.

    Raises:
        InputError: A name is not in the configuration, or the recipe cannot be read.
    """
    teacher = config.teachers[_known("teacher", ask.teacher, config.teachers)]
    flags: dict[str, Any] = {
        "data": config.data[_known("data", ask.data, config.data)],
        "recipe": config.recipes[_known("recipe", ask.recipe, config.recipes)],
        "img_size": ask.img_size,
        "topk": ask.topk,
        "values": ask.values,
        "affinity": ask.affinity,
        "views_per_unit": config.views_per_unit,
        **msgspec.structs.asdict(teacher),
    }
    facts = {
        **flags,
        "recipe": _recipe_sha256(flags["recipe"], ask.img_size),
        "data": _dataset_sha256(flags["data"]),
    }
    for speed in ("device", "batch_size", "workers"):
        del facts[speed]
    digest = sha256_of(
        {name: list(fact) if isinstance(fact, tuple) else fact for name, fact in facts.items()}
    )
    archive = f"{ask.data}/{ask.teacher}-{ask.recipe}-k{ask.topk}-{digest[:12]}"
    if config.images_in:
        flags["images_in"] = config.images_in
    if isinstance(config.executor, RaySection):
        flags["num_actors"] = config.executor.max_actors
        flags["gpus_per_actor"] = config.executor.gpus_per_actor
    return LabelSet(digest[:32], archive, {name: value for name, value in flags.items() if value is not None})


def check_offer(config: ServiceConfig) -> None:
    """Check that every configured dataset and checkpoint exists.

    Raises:
        InputError: A dataset is not there, or a checkpoint that this machine's jobs would read.
    """
    for url in config.data.values():
        with contextlib.suppress(StoreError):  # a store that is away now may be back before somebody asks
            _dataset_sha256(url)
    checkpoints = {name: teacher.checkpoint for name, teacher in config.teachers.items()}
    for name, file in checkpoints.items() if isinstance(config.executor, LocalSection) else ():
        if file is not None and "://" not in file and not Path(file).is_file():
            raise InputError(
                f"teachers: {name}: checkpoint {file} is not a file",
                "Every job of this teacher would fail.",
                "correct the path, which is relative to the folder of the configuration",
            )


def views_of(ask: Ask, config: ServiceConfig) -> range:
    """Return the views of an ask, widened to whole units.

    Raises:
        InputError: The range is empty, or reaches beyond the configuration's limit.
    """
    asked, size = parse_views(ask.views), config.views_per_unit
    views = range(asked.start // size * size, -(-asked.stop // size) * size)
    if views.stop > config.max_views:
        raise InputError(
            f"views {ask.views} are out of range",
            f"This service labels only views with an index below {config.max_views:,}.",
            "ask for views with lower indices",
        )
    return views


def job_id(labels: LabelSet, views: range) -> str:
    """Return the id of the one job that makes some views of a label set."""
    return sha256_of({"labels": labels.id, "views": [views.start, views.stop]})[:24]


def _known(what: str, name: str, names: dict[str, Any]) -> str:
    if name not in names:
        raise InputError(
            f"{what} {name!r} is not offered by this service",
            "Requests may use only the names in the service's configuration.",
            nearest(name, names) or f"known: {', '.join(names)}",
        )
    return name
