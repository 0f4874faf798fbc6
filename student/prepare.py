"""Open and check everything a run needs, before anything is written; and describe the run in words."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any

from student.config import TrainConfig
from student.plan import RunPlan, plan_run
from student.ranks import Ranks
from student.state import RunProgress, load_progress, refuse_other, saved_updates
from teacher_cache import PackedDataset, Recipe, load_recipe
from teacher_cache.archive.format.trust import trust_of
from teacher_cache.archive.open import AnySource, LabelPlaces, open_any, open_trusted
from teacher_cache.archive.readers.source import view_ranges
from teacher_cache.errors import InputError
from teacher_cache.following.reader import Patience, open_following
from teacher_cache.program.flags import RESUMABLE, flags_with
from teacher_cache.program.say import say_on_stderr
from teacher_cache.sharing.client import Client, request_of
from teacher_cache.storage.store import Store
from teacher_cache.stream.stream import ViewStream


@dataclasses.dataclass(frozen=True)
class Run:
    """Inputs and plan of a run.

    Attributes:
        ranks: This process among those of the run.
        output: Store of the metrics, states and weights.
        archive: Archive of teacher labels, or None.
        validation: Dataset to evaluate on, or None.
        plan: Batches, updates, learning rate and views.
        stream: Stream of the remaining batches.
        identity: Facts that identify the run, independent of processes, folders and machines.
        progress: Progress of the newest state, or None for a new run.
    """

    config: TrainConfig
    ranks: Ranks
    output: Store
    dataset: PackedDataset
    archive: AnySource | None
    recipe: Recipe
    validation: PackedDataset | None
    plan: RunPlan
    stream: ViewStream
    identity: dict[str, Any]
    progress: RunProgress | None

    @property
    def num_classes(self) -> int:
        """Number of classes: the dataset's, or the archive's if the dataset does not name them."""
        named = len(self.dataset.info.classes)
        return named if named or self.archive is None else self.archive.spec.labels.num_classes

    @property
    def first_update(self) -> int:
        """Number of updates done before this call."""
        return 0 if self.progress is None else self.progress.updates


def prepare(config: TrainConfig, ranks: Ranks) -> Run:
    """Open and check everything that a run needs.

    Raises:
        InputError: A flag or an input is wrong, or --output holds a run with other settings.
    """
    output = Store(config.output)
    if config.resume == "never" and output.list():
        raise InputError(
            f"--output {config.output} is not empty",
            "An earlier run's metrics and weights would be overwritten.",
            "choose a new folder, or go on with that run: --resume auto",
        )
    dataset = PackedDataset(config.data, config.room, config.images_in)
    places = LabelPlaces(
        _labels(config), config.room, config.label_weights, trust_of(config.key, config.manifest)
    )
    patience = Patience(config.follow_timeout_s, say_on_stderr)
    follow = functools.partial(open_following, patience=patience)
    archive = open_any(places, follow if config.follow else open_trusted)
    _check_labels(config, dataset, archive)
    recipe = archive.recipe if archive else load_recipe(config.recipe or "deit", config.img_size)
    plan = plan_run(
        config,
        num_rows=len(dataset),
        rows_per_shard=dataset.info.samples_per_shard,
        archive_views=None if archive is None else archive.views,
        archive_shards=None if archive is None else archive.shards,
        rank=ranks.rank,
        world_size=ranks.world_size,
    )
    validation = _validation(config, dataset, archive)
    identity = _identity(config, dataset, archive, recipe, plan)
    progress = _progress(config, output, identity, ranks) if config.resume == "auto" else None
    first_update = 0 if progress is None else progress.updates
    stream = ViewStream(
        dataset,
        recipe,
        plan.stream,
        plan.schedule,
        num_batches=plan.num_batches,
        first_batch=first_update * plan.stream.batches_per_update,
        archive=archive,
    )
    return Run(
        config=config,
        ranks=ranks,
        output=output,
        dataset=dataset,
        archive=archive,
        recipe=recipe,
        validation=validation,
        plan=plan,
        stream=stream,
        identity=identity,
        progress=progress,
    )


def _labels(config: TrainConfig) -> list[str]:
    """Return the URLs of the labels, and wait for those that are requests to a label service."""
    if not any(request_of(url) for url in config.labels):
        return list(config.labels)

    client = Client()
    return [client.labels(url, follow=config.follow, say=say_on_stderr) for url in config.labels]


def _check_labels(config: TrainConfig, dataset: PackedDataset, archive: AnySource | None) -> None:
    """Raise InputError if the labels of the dataset or the archives do not fit the loss of the flags."""
    uses_labels = config.distillation == "none" or config.distillation_alpha < 1
    if uses_labels and not dataset.index.is_labelled:
        raise InputError(
            f"--data {config.data} has images without labels, and the loss has a term of true labels",
            "That term of the loss cannot be computed.",
            "learn from the teacher alone: --distillation hard or soft with --distillation-alpha 1",
        )
    members = archive.members if archive else ()
    for member in members:
        labels = member.spec.labels
        is_cut = (config.distillation == "soft" or len(members) > 1) and labels.k < labels.num_classes
        if is_cut and config.tail == "affinity" and labels.shared_rule is None:
            raise InputError(
                f"--tail affinity, but archive {member.url} has neither a class affinity nor a basis",
                "The tail mass of its labels cannot be spread over the other classes as the teacher would.",
                "choose another rule, such as --tail uniform",
            )
        if is_cut and config.tail == "bucket" and len(members) > 1:
            raise InputError(
                f"--tail bucket with {len(members)} archives",
                "The labels of each archive leave out different classes: their buckets cannot be averaged.",
                "choose another rule, such as --tail uniform",
            )
    if archive is None and not dataset.info.classes:
        raise InputError(
            f"--data {config.data} names no classes, and there is no archive",
            "The number of classes is not known.",
            "give --labels, or pack the dataset with --classes FILE",
        )


def _identity(
    config: TrainConfig,
    dataset: PackedDataset,
    archive: AnySource | None,
    recipe: Recipe,
    plan: RunPlan,
) -> dict[str, Any]:
    flags, resumable = dataclasses.asdict(config), flags_with(TrainConfig, RESUMABLE)
    facts = {
        **{name: value for name, value in flags.items() if name not in resumable},
        "dataset": dataset.info.sha256,
        "labels": None if archive is None else archive.fingerprint,
        "recipe": recipe.sha256,
        "views": view_ranges(sorted(set(plan.schedule.views))),
        "views of an update": plan.effective_batch,
    }
    if plan.stream.shards is not None:
        facts["image shards"] = view_ranges(plan.stream.shards)
    return json.loads(json.dumps(facts))


def _progress(
    config: TrainConfig, output: Store, identity: dict[str, Any], ranks: Ranks
) -> RunProgress | None:
    states = saved_updates(output)
    last = states[-1] if states else 0
    if not ranks.is_same(last):
        raise InputError(
            f"--output {config.output} is not the same folder for all processes",
            f"Process {ranks.rank} of {ranks.world_size} finds a state of {last:,} updates, others do not.",
            "choose an --output on a file system or object store that all processes share",
        )
    if not states:
        return None
    progress = load_progress(output, last)
    refuse_other(progress.identity, identity, config.output)
    return progress


def _validation(
    config: TrainConfig, dataset: PackedDataset, archive: AnySource | None
) -> PackedDataset | None:
    if config.val_data is None:
        return None
    validation = PackedDataset(config.val_data, config.room, config.images_in)
    if not validation.index.is_labelled:
        raise InputError(
            f"--val-data {config.val_data} has images without labels",
            "There is no accuracy without true labels.",
            "pack it with labels, or leave --val-data out",
        )
    if archive is not None and not dataset.info.classes:
        fits = len(validation.info.classes) == archive.spec.labels.num_classes
    else:
        fits = validation.info.class_list.sha256 == dataset.info.class_list.sha256
    if not fits:
        raise InputError(
            f"--val-data {config.val_data} has another class list than --data {config.data}: "
            f"{len(validation.info.classes):,} classes",
            "The same class id would mean different classes in the two datasets.",
            f"pack it with the same classes: teacher-cache pack ... --classes {config.data}",
        )
    return validation


def describe(run: Run) -> dict[str, str]:
    """Return a description of a run before it begins, by topic."""
    plan, config = run.plan, run.config
    parts = (config.batch_size, config.grad_accum_steps, run.ranks.world_size)
    num_views = len(set(plan.schedule.views))
    reuse = plan.epochs / num_views
    views = f"{plan.views_used} of each image in {plan.epochs:,.1f} epochs"
    if run.archive is not None:
        views += f"; the archive has {view_ranges(run.archive.views)}"
    if reuse > 1:
        views += f"; each is seen {reuse:,.1f} times, in fresh order"
    images = f"{len(run.dataset):,}"
    if plan.stream.shards is not None:
        images = (
            f"{plan.stream.rows_per_pass:,} of {len(run.dataset):,} that have labels, in "
            f"{len(plan.stream.shards):,} of {len(run.dataset.info.shards):,} shards,"
        )
    return {
        "images": f"{images} of {run.num_classes:,} classes, at {run.recipe.img_size} px"
        + ("" if run.dataset.index.is_labelled else ", without labels of their own")
        + ("" if run.dataset.info.classes else "; their names are not known, and taken to be the teacher's"),
        "effective batch": f"{plan.effective_batch:,} views: {' x '.join(map(str, parts))} "
        "(batch, --grad-accum-steps, processes)",
        "learning rate": f"{plan.peak_lr:g} after {plan.warmup_updates:,} updates of warm-up",
        "updates": f"{plan.num_updates:,}, {plan.stream.batches_per_epoch:,} batches an epoch",
        "views": views,
        "begins": f"after {run.first_update:,} updates" if run.progress else "from scratch",
    }
