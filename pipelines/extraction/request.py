"""Request of an extraction: the flags of `extract`, parsed once into values for the rest of the job."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from pipelines.extraction.flags import (
    DEFAULT_DRAIN_S,
    DEFAULT_UNIT_TIMEOUT_S,
    ActorFlags,
    ExtractConfig,
    LabelFlags,
)
from teacher_cache.archive.format.manifest import Manifest
from teacher_cache.archive.format.trust import Trust, trust_of
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.following.job import Filling
from teacher_cache.labels.arrays import check_topk
from teacher_cache.labels.encodings import Values
from teacher_cache.models.kinds import TeacherSettings
from teacher_cache.program.flags import parse_views, with_absolute_paths
from teacher_cache.storage.cache import CacheRoom
from teacher_cache.storage.store import Store
from teacher_cache.views.recipe import Recipe, load_recipe


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkOrder:
    """Settings from which a worker is constructed on any machine; pickled.

    Attributes:
        data: URL of the dataset; every worker's machine must see the same files there.
        room: Room for copies of remote images.
        images_in: Places besides the dataset's folder that images may be read from.
        recipe: Recipe, read by the driver: a recipe's file need not be on other machines.
        teacher: Teacher to load.
        compare_names: Whether to compare the class names that come with the weights with the dataset's.
        archive: Store of the archive that the worker writes to.
        workers: Processes that render views; 0 renders in the worker's process.
    """

    data: str
    room: CacheRoom
    images_in: tuple[str, ...]
    recipe: Recipe
    teacher: TeacherSettings
    compare_names: bool
    archive: Store
    batch_size: int
    workers: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Engine that runs the units; all but the name is for Ray.

    Attributes:
        name: Name of the engine, one of ENGINES.
        address: Address of a cluster; None starts one on this machine, which ends with the engine.
        num_actors: Number of actors; None takes as many as the cluster has room for.
        gpus_per_actor, cpus_per_actor: Resources of each; None judges by the teacher's device.
        unit_timeout_s: Seconds after which an actor that labelled nothing counts as hung.
        drain_s: Seconds that running units have to finish after SIGINT or SIGTERM.
        workers: Processes that render for each teacher.
    """

    name: str = "local"
    address: str | None = None
    num_actors: int | None = None
    gpus_per_actor: float | None = None
    cpus_per_actor: float | None = None
    unit_timeout_s: float = DEFAULT_UNIT_TIMEOUT_S
    drain_s: float = DEFAULT_DRAIN_S
    device: str = "auto"
    workers: int = 0

    @property
    def entry_point(self) -> str:
        """Class of the engine, as MODULE:CLASS."""
        return f"pipelines.extraction.engines.{self.name}:{self.name.title()}Engine"


class Base(NamedTuple):
    """Archive that a new one extends, and its manifest, read once."""

    store: Store
    manifest: Manifest


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExtractRequest:
    """Labels to compute, and the dataset, stores and keys that are opened once for them.

    Attributes:
        archive: Store of the archive to write.
        order: Settings of the workers; if `is_followed`, these write to a folder beside the archive.
        engine: Engine that runs the units.
        dataset: Packed dataset, of which the driver reads only the index.
        has_affinity: Whether the class affinity is calibrated.
        num_codes: Codes of a label, in a basis that is calibrated in place of the affinity; 0 for none.
        views_per_unit: Views computed and stored together; None takes the default.
        extends: Archive whose labels are not computed again, and its manifest.
        catalogs: Folders or buckets whose archives units are taken from.
        trust: Conditions that the archives in the catalogs must fulfil.
        max_quarantined: Units that may be given up before the run stops.
        max_gpu_hours: Limit of the teacher's hours on all devices together.
        allow_disagreement: Label even if the teacher's classes seem to be others than the dataset's.
        run_folder: Store for the record of the run; None makes a new folder beside the archive.
        is_followed: Whether students with --follow read the labels while they are made.
    """

    archive: Store
    order: WorkOrder
    engine: EngineSettings
    dataset: PackedDataset
    views: range
    topk: int
    values: Values
    has_affinity: bool
    num_codes: int
    views_per_unit: int | None
    extends: Base | None
    catalogs: tuple[Store, ...]
    trust: Trust
    retries: int
    max_quarantined: int
    max_gpu_hours: float | None
    allow_disagreement: bool
    run_folder: Store | None
    is_followed: bool


def request_of(config: ExtractConfig) -> ExtractRequest:
    """Return the request that flags make; the dataset, the recipe and keys are read.

    Raises:
        InputError: A flag is wrong, or does not name a valid dataset, recipe or file of keys.
    """
    config = with_absolute_paths(config)
    dataset, archive = PackedDataset(config.data, images_in=config.images_in), Store(config.out)
    if dataset.info.classes:
        check_topk(config.topk, len(dataset.info.classes))
    trust = trust_of(config.key, config.manifest)
    return ExtractRequest(
        archive=archive,
        order=_order(config, Filling(archive).labels if config.followed else archive),
        engine=_engine(config),
        dataset=dataset,
        views=parse_views(config.views),
        topk=config.topk,
        values=config.values,
        has_affinity=config.affinity != "none",
        num_codes=config.components or 0,
        views_per_unit=config.views_per_unit,
        extends=None if config.extends is None else _base(config.extends, trust),
        catalogs=tuple(map(Store, config.catalog)),
        trust=trust if config.catalog_key is None else trust_of(config.catalog_key, config.manifest),
        retries=config.retries,
        max_quarantined=config.max_quarantined,
        max_gpu_hours=config.max_gpu_hours,
        allow_disagreement=config.allow_disagreement,
        run_folder=Store(config.run_dir) if config.run_dir else None,
        is_followed=config.followed,
    )


def _order(config: LabelFlags, archive: Store) -> WorkOrder:
    return WorkOrder(
        data=config.data,
        room=config.room,
        images_in=config.images_in,
        recipe=load_recipe(config.recipe, config.img_size),
        teacher=config.settings(config.teacher, config.precision),
        compare_names=not config.allow_disagreement,
        archive=archive,
        batch_size=config.batch_size,
        workers=config.workers,
    )


def _engine(config: ExtractConfig) -> EngineSettings:
    fields = {field.name: getattr(config, field.name) for field in dataclasses.fields(ActorFlags)}
    return EngineSettings(
        name=config.engine,
        address=config.address,
        device=config.device,
        workers=config.workers,
        **{name: value for name, value in fields.items() if value is not None},
    )


def _base(url: str, trust: Trust) -> Base:
    store = Store(url)
    return Base(store, trust.manifest(store))
