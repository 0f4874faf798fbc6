"""Images and a teacher in one process: labels of units, calibration views, and how long a view takes."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from pipelines.extraction.messages import Rate
from teacher_cache.archive.format.layout import Layout, Unit
from teacher_cache.archive.format.spec import LabelSpec
from teacher_cache.archive.readers.source import LabelSource
from teacher_cache.batches.batch import ViewBatch
from teacher_cache.batches.pool import RenderPool
from teacher_cache.batches.rendered import Load, ViewIds
from teacher_cache.batches.renderer import BatchRenderer
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import ArchiveError
from teacher_cache.labelling.calibrate import Calibrated, calibrate_part
from teacher_cache.labelling.unit import extract_unit, teacher_logits, unit_loads
from teacher_cache.labels.affinity_rule import CalibrationPart, component_rule
from teacher_cache.labels.arrays import LabelArrays
from teacher_cache.labels.codec import decode_basis, encode
from teacher_cache.labels.components import centred, fitted_basis, with_codes
from teacher_cache.labels.topk import Basis, Labels, OneLabels, labels_from_logits
from teacher_cache.models.kinds import TeacherSettings
from teacher_cache.models.teacher import Teacher, build_teacher
from teacher_cache.models.trial import check_trial
from teacher_cache.views.recipe import Recipe

Advance = Callable[[int], None]
_SHORT_S, _PASSES = 0.5, 3
"""Seconds below which a measurement is repeated, and the passes at most."""


class TimedLabels(NamedTuple):
    """Labels of a unit, and the seconds that the teacher waited for views and computed."""

    labels: LabelArrays
    render_s: float
    teacher_s: float


class TimedViews(NamedTuple):
    """The teacher's classes of calibration views, and the seconds that it waited for views and computed."""

    views: Calibrated
    render_s: float
    teacher_s: float


class Labeller:
    """Images and a teacher, loaded once."""

    def __init__(
        self, dataset: PackedDataset, recipe: Recipe, teacher: Teacher, *, batch_size: int, workers: int
    ) -> None:
        self.dataset, self.recipe, self.teacher, self.batch_size = dataset, recipe, teacher, batch_size
        self._workers = workers
        self._pool = self._new_pool()

    def label(self, unit: Unit, labels: LabelSpec, basis: Basis | None, advance: Advance) -> TimedLabels:
        """Return the labels of a unit, and the time they took; see `extract_unit`."""
        with self._pool_renewed_on_error():
            waited_s, start_s = self._pool.waited_s, time.perf_counter()
            arrays = extract_unit(
                unit,
                self._pool,
                self.teacher,
                labels=labels,
                basis=basis,
                batch_size=self.batch_size,
                advance=advance,
            )
            seconds, render_s = time.perf_counter() - start_s, self._pool.waited_s - waited_s
        return TimedLabels(arrays, render_s, seconds - render_s)

    def calibrate(self, part: CalibrationPart, advance: Advance, *, for_basis: bool = False) -> TimedViews:
        """Return the teacher's classes of a part of the calibration views; see `calibrate_part`."""
        with self._pool_renewed_on_error():
            waited_s, start_s = self._pool.waited_s, time.perf_counter()
            views = calibrate_part(
                self._pool,
                self.teacher,
                part,
                batch_size=self.batch_size,
                for_basis=for_basis,
                advance=advance,
            )
            seconds, render_s = time.perf_counter() - start_s, self._pool.waited_s - waited_s
        return TimedViews(views, render_s, seconds - render_s)

    def logits(self, loads: Sequence[Load], what: str) -> Iterator[tuple[ViewBatch, torch.Tensor]]:
        """Yield each batch of some loads with the teacher's logits; see `teacher_logits`."""
        with self._pool_renewed_on_error():
            yield from teacher_logits(self._pool, self.teacher, loads, what=what)

    def measure(self, layout: Layout, unit: Unit, num_views: int) -> Rate:
        """Try the teacher on a unit's first views, then return the rate at which they are labelled.

        Nothing is written.

        A short measurement is repeated, and the fastest pass is returned, as a pass may be interrupted.

        Args:
            layout: Layout in which the labels would be stored.
            num_views: Views to label, rounded up to whole loads.

        Raises:
            ModelError: The teacher's output cannot be logits, or does not repeat; see `check_trial`.
        """
        loads = unit_loads(
            self.dataset.rows_of(unit.shard), unit.views, self.batch_size, self._pool.renderer.mixing
        )
        totals = itertools.accumulate(map(_num_views, loads))
        enough = next((number for number, total in enumerate(totals, 1) if total >= num_views), len(loads))
        kind = text = ""
        for number, (batch, _) in enumerate(self.logits(loads[:1], "the views measured")):
            if number == 0:
                kind, text = check_trial(self.teacher, batch.pixels(self.teacher.device))
        passes = [self._rate(layout, loads[:enough])]
        while len(passes) < _PASSES and sum(rate.seconds for rate in passes) < _SHORT_S:
            passes.append(self._rate(layout, loads[:enough]))
        fastest = min(passes, key=lambda rate: rate.seconds)
        return dataclasses.replace(fastest, outputs=text, outputs_kind=kind)

    def _rate(self, layout: Layout, loads: Sequence[Load]) -> Rate:
        waited_s, start_s = self._pool.waited_s, time.perf_counter()
        views = [
            (labels_from_logits(logits_BC, layout.k), centred(logits_BC).half() if layout.num_codes else None)
            for _, logits_BC in self.logits(loads, "the views measured")
        ]
        seconds = time.perf_counter() - start_s
        return Rate(
            views=sum(len(labels.tail_B) for labels, _ in views),
            seconds=seconds,
            render_s=self._pool.waited_s - waited_s,
            bytes_per_label=_bytes_per_label(layout, views),
        )

    def keys_sha256(self, unit: Unit) -> str:
        """Return the digest of the keys of a unit's rows."""
        rows = self.dataset.rows_of(unit.shard)
        return self.dataset.index.keys_sha256(rows.start, rows.stop)

    def close(self) -> None:
        """End the processes that render; the next task starts others."""
        self._pool.close()
        self._pool = self._new_pool()

    @contextlib.contextmanager
    def _pool_renewed_on_error(self) -> Iterator[None]:
        """Replace the pool if the block raises: a process may be dead, or rendered batches may be unread."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _new_pool(self) -> RenderPool[BatchRenderer]:
        return RenderPool(BatchRenderer(self.dataset, self.recipe), self._workers)


def labeller_of(
    archive: LabelSource, dataset: PackedDataset, settings: TeacherSettings, *, batch_size: int, workers: int
) -> Labeller:
    """Return a labeller with the dataset and the teacher of an archive, after checking that they match.

    Args:
        settings: Teacher to load; by default the archive's timm model. The precision is the archive's.

    Raises:
        ArchiveError: The dataset or teacher is not the archive's, or an unnamed teacher is not timm's.
        ModelError: See `build_teacher`.
    """
    archive.check_replay(dataset.info)
    theirs, recipe = archive.spec.teacher, archive.recipe
    own = {} if settings.name else {"name": _timm_name(archive), "model_kwargs": theirs["model_kwargs"]}
    teacher = build_teacher(
        dataclasses.replace(settings, precision=theirs["precision"], **own),
        classes=dataset.info.class_list,
        img_size=recipe.img_size,
        compare_names=False,  # class names were checked when the archive was made
    )
    ours = teacher.spec.to_dict()
    odd = [field for field in ("weights_sha256", *ours, *theirs) if ours.get(field) != theirs.get(field)]
    if odd:
        what = "weights are" if odd[0] == "weights_sha256" else f"{odd[0]}:"
        mine, its = (f"{spec.get(odd[0])!s:.40}" for spec in (ours, theirs))
        raise ArchiveError(
            f"the teacher's {what} {mine}; in {archive.url}: {its}",
            "Another teacher's labels would be compared or mixed with these.",
            "give the archive's teacher: weights with --checkpoint, and name with --teacher if not timm's",
        )
    return Labeller(dataset, recipe, teacher, batch_size=batch_size, workers=workers)


def _timm_name(archive: LabelSource) -> str:
    """Return the archive's timm model. Raises ArchiveError if code or files could be loaded by its name."""
    theirs = archive.spec.teacher
    odd = [name for name in theirs["model_kwargs"] if name.startswith(("pretrained", "checkpoint", "cache"))]
    if odd or ":" in theirs["model"]:
        raise ArchiveError(
            f"{archive.url} names the teacher {theirs['model']!r} with {', '.join(odd) or 'no files'}",
            "An archive may name a timm model, but not where to load code or files from.",
            "if you trust this teacher, give its name with --teacher",
        )
    return theirs["model"]


def _num_views(load: Sequence[ViewIds]) -> int:
    return sum(len(view_ids.rows_B) for view_ids in load)


def _bytes_per_label(layout: Layout, views: Sequence[tuple[Labels, torch.Tensor | None]]) -> float:
    """Return the stored bytes of a label, from some labels stored as the chunks of one view.

    Codes, where there are any, are those in a basis of these few views.
    """
    found: list[OneLabels] = [labels for labels, _ in views]
    if layout.num_codes:
        centred_NC = torch.cat([some for _, some in views if some is not None])
        rule = component_rule(layout.num_codes, layout.num_classes, len(centred_NC))
        basis = decode_basis(fitted_basis(centred_NC.cpu().numpy(), rule), layout.num_codes)
        found = [
            with_codes(labels, some, basis.to(some.device), rule)
            for labels, some in views
            if some is not None
        ]
    labels = [encode(each, layout.num_classes, layout.values) for each in found]
    rows = min(sum(len(part.tail) for part in labels), layout.rows_per_shard)
    stored = [np.concatenate(arrays)[:rows, None] for arrays in zip(*labels, strict=True)]
    small = dataclasses.replace(layout, rows_per_shard=rows, views_per_unit=1)
    return sum(len(data) for data in small.encode_unit(LabelArrays(*stored)).values()) / rows
