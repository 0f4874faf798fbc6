"""A worker: images and a teacher, loaded once, that do unit after unit. The same in every engine."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from pipelines.extraction.engines.engine import Advance, UnitResult
from pipelines.extraction.labeller import Job
from pipelines.extraction.order import Description, Rate, WorkOrder
from teacher_cache.archive.layout import Layout, Unit
from teacher_cache.archive.write import ArchiveWriter, existing_spec
from teacher_cache.batches.pool import RenderPool
from teacher_cache.batches.renderer import BatchRenderer
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import ArchiveError, RecipeError, UnfitError
from teacher_cache.labelling.logits import teacher_logits
from teacher_cache.labelling.unit import unit_loads
from teacher_cache.labels.arrays import LabelArrays
from teacher_cache.labels.codec import encode
from teacher_cache.labels.topk import labels_from_logits
from teacher_cache.models.create import resolve_device
from teacher_cache.models.teacher import build_teacher
from teacher_cache.program.commandline import parse_kwargs
from teacher_cache.storage.store import Store
from teacher_cache.views.probe import check_probe, library_versions, probe_digest


@dataclasses.dataclass(frozen=True)
class Labelled:
    """A unit that is computed and not written yet; seconds as in UnitResult."""

    unit: Unit
    labels: LabelArrays
    render_s: float
    teacher_s: float


class LabelWorker:
    """Labels units and writes them to the archive of its order.

    Raises:
        InputError: See `PackedDataset` and `build_teacher`.
    """

    def __init__(self, order: WorkOrder) -> None:
        request = order.request
        self._request, self._recipe = request, order.recipe
        self._dataset = PackedDataset(request.data, request.room)
        self._teacher = build_teacher(
            request.teacher,
            classes=self._dataset.info.class_list,
            img_size=order.recipe.img_size,
            device=resolve_device(request.device),
            pretrained=request.pretrained,
            checkpoint=request.checkpoint,
            model_kwargs=parse_kwargs(request.model_kwargs),
            precision=request.precision,
            channels_last=request.channels_last,
            compiled=request.compile,
        )
        self._pool = self._new_pool()
        self._opened: ArchiveWriter | None = None

    def describe(self) -> Description:
        """Say what this worker has."""
        device = self._teacher.device
        return Description(
            self._teacher.spec.to_dict(),
            probe_digest(self._recipe),
            library_versions(),
            torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        )

    def measure(self, layout: Layout, unit: Unit, num_views: int) -> Rate:
        """Label the first views of a unit, once to warm up and once on the clock; nothing is written.

        Args:
            layout: How the unit would be stored.
            unit: Whose views.
            num_views: To label, about: whole loads.
        """
        rows = self._dataset.rows_of(unit.shard)
        loads = unit_loads(rows, unit.views, self._request.batch_size, self._pool.renderer.mixing)
        so_far = itertools.accumulate(sum(len(entries.rows_B) for entries in load) for load in loads)
        some = loads[: 1 + next((n for n, total in enumerate(so_far) if total >= num_views), len(loads))]
        with self._pool_renewed_on_error():
            for _ in teacher_logits(self._pool, self._teacher, some[:1], what="the views measured"):
                pass
            waited_s, start_s = self._pool.waited_s, time.perf_counter()
            labels = [
                encode(labels_from_logits(logits_BC, layout.k), layout.num_classes, layout.values)
                for _, logits_BC in teacher_logits(self._pool, self._teacher, some, what="the views measured")
            ]
            seconds = time.perf_counter() - start_s
        return Rate(
            views=sum(len(part.tail) for part in labels),
            seconds=seconds,
            render_s=self._pool.waited_s - waited_s,
            bytes_per_label=_bytes_per_label(layout, labels),
        )

    def freeze_affinity(self, advance: Advance) -> None:
        """Calibrate the archive's class affinity and write it, unless it is there."""
        writer = self._archive()
        with self._pool_renewed_on_error():
            rows = self._job(writer).affinity(advance)
        writer.freeze_affinity(rows)

    def compute(self, unit: Unit, advance: Advance) -> Labelled:
        """Label a unit; see `extract_unit`.

        Raises:
            UnfitError: This worker has other images, weights or libraries than the archive was begun with.
        """
        writer = self._archive()
        waited_s, start_s = self._pool.waited_s, time.perf_counter()
        with self._pool_renewed_on_error():
            labels = self._job(writer).label(unit, advance)
        seconds, render_s = time.perf_counter() - start_s, self._pool.waited_s - waited_s
        return Labelled(unit, labels, render_s, seconds - render_s)

    def write(self, computed: Labelled) -> UnitResult:
        """Write a unit's objects, then its receipt."""
        writer, start_s = self._archive(), time.perf_counter()
        keys_sha256 = self._job(writer).keys_sha256(computed.unit)
        receipt = writer.commit(computed.unit, computed.labels, keys_sha256)
        return UnitResult(
            computed.labels.tail.size,
            receipt.num_bytes,
            computed.render_s,
            computed.teacher_s,
            time.perf_counter() - start_s,
        )

    def close(self) -> None:
        """End the processes that render."""
        self._pool = self._new_pool()

    def _job(self, writer: ArchiveWriter) -> Job:
        return Job(writer.spec, self._teacher, self._pool, self._request.batch_size)

    @contextlib.contextmanager
    def _pool_renewed_on_error(self) -> Iterator[None]:
        """A process that renders may have died, or its buffers be taken by batches nobody will read."""
        try:
            yield
        except BaseException:
            self._pool = self._new_pool()
            raise

    def _new_pool(self) -> RenderPool:
        return RenderPool(BatchRenderer(self._dataset, self._recipe), self._request.workers)

    def _archive(self) -> ArchiveWriter:
        """Open the archive, if what it was begun with is what this worker has."""
        if self._opened is None:
            store = Store(self._request.out)
            spec = existing_spec(store)
            theirs = (spec.dataset["sha256"], spec.teacher)
            if theirs != (self._dataset.info.sha256, self._teacher.spec.to_dict()):
                raise UnfitError(
                    f"a worker has {_identity(self._dataset.info.sha256, self._teacher.spec.to_dict())}, "
                    f"the archive {_identity(*theirs)}",
                    "Labels of two requests would lie in one archive.",
                    "give all machines the same --data and --checkpoint, and devices of one kind",
                )
            try:
                check_probe(self._recipe, spec.probe_sha256, spec.made_with)
            except (RecipeError, ArchiveError) as error:
                raise UnfitError(error.value, error.consequence, error.remedy) from error
            self._opened = ArchiveWriter(store, spec)
        return self._opened


def _identity(dataset_sha256: str, teacher: Mapping[str, Any]) -> str:
    weights, precision = teacher["weights_sha256"], teacher["precision"]
    return f"dataset {dataset_sha256[:12]}, teacher {teacher['model']} {weights[:12]} in {precision}"


def _bytes_per_label(layout: Layout, labels: Sequence[LabelArrays]) -> float:
    """Return how many bytes some labels take as they are stored, each: as the chunks of one view."""
    rows = min(sum(len(part.tail) for part in labels), layout.rows_per_shard)
    views = [np.concatenate(arrays)[:rows, None] for arrays in zip(*labels, strict=True)]
    small = dataclasses.replace(layout, rows_per_shard=rows, views_per_unit=1)
    return sum(len(data) for data in small.encode_unit(LabelArrays(*views)).values()) / rows
