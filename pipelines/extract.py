"""The extraction job: what is asked, what is missing, run it, and close the archive."""

from __future__ import annotations

import dataclasses
import itertools
import time

from pipelines.config import ExtractConfig
from pipelines.engines import local
from pipelines.job import Job
from pipelines.plan import default_views_per_unit, missing_units
from teacher_cache.archive.read import ArchiveReader
from teacher_cache.archive.spec import SPEC_FILE, ArchiveSpec, LabelSpec
from teacher_cache.archive.write import ArchiveWriter, extension
from teacher_cache.commandline import parse_kwargs, parse_views
from teacher_cache.dataset.index import DatasetInfo
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import InputError
from teacher_cache.labels.affinity import affinity_rule
from teacher_cache.labels.codec import Values
from teacher_cache.labels.topk import check_topk
from teacher_cache.models import resolve_device
from teacher_cache.progress import Track
from teacher_cache.store import Store
from teacher_cache.teacher import TeacherSpec, build_teacher
from teacher_cache.views import recipe as recipes
from teacher_cache.views.probe import library_versions, probe_digest
from teacher_cache.views.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class ExtractReport:
    """What a run did, and what the archive then holds.

    Attributes:
        units, views: Computed by this run: units, and views of single images.
        seconds: Spent on them.
        labels: In the archive.
        label_bytes: Of all label objects.
        fingerprint: Of the archive.
    """

    units: int
    views: int
    seconds: float
    labels: int
    label_bytes: int
    fingerprint: str


def archive_spec(
    dataset: DatasetInfo, recipe: Recipe, teacher: TeacherSpec, k: int, values: Values, views_per_unit: int
) -> ArchiveSpec:
    """Return the spec of an archive, from what determines its labels."""
    return ArchiveSpec(
        dataset={
            "sha256": dataset.sha256,
            "shards": [(shard.sha256, shard.num_samples) for shard in dataset.shards],
        },
        recipe=recipe.to_dict(),
        teacher=teacher.to_dict(),
        labels=LabelSpec(
            k,
            len(dataset.classes),
            dataset.classes_sha256,
            affinity=affinity_rule(k, len(dataset.classes)),
            values=values,
        ),
        probe_sha256=probe_digest(recipe),
        views_per_unit=views_per_unit,
        made_with=library_versions(),
    )


def extract(config: ExtractConfig, track: Track) -> ExtractReport:
    """Compute the labels that are asked and not there yet, and finish the archive.

    Raises:
        InputError: The request is wrong: see the errors of what it calls. Nothing of the archive is lost.
    """
    dataset = PackedDataset(config.data)
    check_topk(config.topk, len(dataset.info.classes))
    recipe = recipes.load(config.recipe, config.img_size)
    views = parse_views(config.views)
    teacher = build_teacher(
        config.teacher,
        num_classes=len(dataset.info.classes),
        classes_sha256=dataset.info.classes_sha256,
        img_size=recipe.img_size,
        device=resolve_device(config.device),
        pretrained=config.pretrained,
        checkpoint=config.checkpoint,
        model_kwargs=parse_kwargs(config.model_kwargs),
        precision=config.precision,
    )
    base = ArchiveReader(config.extends) if config.extends else None
    views_per_unit = (
        config.views_per_unit
        or (base.spec.views_per_unit if base else None)
        or default_views_per_unit(len(views))
    )
    asked = archive_spec(dataset.info, recipe, teacher.spec, config.topk, config.values, views_per_unit)
    store = Store(config.out)
    if store.stat(SPEC_FILE) is None:  # refuse what cannot be before a spec pins the layout
        asked.layout.units(views.start, views.stop)
        there = extension(store, asked, base) if base else {}
        writer = ArchiveWriter.open(store, asked)
    else:
        writer = ArchiveWriter.open(store, asked)
        there = extension(store, writer.spec, base) if base else {}
    layout = writer.spec.layout
    if config.views_per_unit not in (None, layout.views_per_unit):
        raise InputError(
            f"--views-per-unit {config.views_per_unit}, but {config.out} "
            f"holds {layout.views_per_unit} views a unit",
            "Units of two sizes cannot lie in one archive.",
            "leave the flag out, or choose a new folder with --out",
        )
    elsewhere = itertools.chain.from_iterable([*writer.extends.values(), *there.values()])
    finished = (receipt.unit for receipt in itertools.chain(writer.receipts(), elsewhere))
    units = missing_units(layout, views, finished)
    num_views = sum(writer.spec.rows(unit.shard) * len(unit.views) for unit in units)
    job = Job(writer.spec, dataset, teacher, config.batch_size, config.workers)
    if writer.spec.labels.affinity is not None and writer.affinity is None:
        writer.freeze_affinity(job.affinity(track))

    start_s = time.monotonic()
    with track("extract", num_views, "views") as advance:
        local.run(units, lambda unit: writer.commit(unit, job.label(unit, advance), job.keys_sha256(unit)))
    seconds = time.monotonic() - start_s
    writer.finish(there)
    archive = ArchiveReader(config.out)
    return ExtractReport(
        units=len(units),
        views=num_views,
        seconds=round(seconds, 3),
        labels=sum(receipt.rows * len(receipt.unit.views) for receipt in archive.receipts),
        label_bytes=archive.num_bytes,
        fingerprint=archive.spec.fingerprint,
    )
