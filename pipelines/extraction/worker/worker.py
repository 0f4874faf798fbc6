"""Worker of every engine: a labeller and the archive that it writes to."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pipelines.extraction.engines.engine import Advance, UnitResult, ignore
from pipelines.extraction.messages import Description, Rate, Trial
from pipelines.extraction.queue import Task
from pipelines.extraction.request import WorkOrder
from pipelines.extraction.worker.labeller import Labeller, TimedLabels, TimedViews
from teacher_cache.archive.figures.measure import measure_and_put
from teacher_cache.archive.format.calibration import (
    delete_parts,
    get_agreement,
    get_parts,
    put_agreement,
    put_part,
)
from teacher_cache.archive.format.layout import Layout, Unit
from teacher_cache.archive.format.spec_file import differing_fields, existing_spec
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.archive.writers.write import ArchiveWriter
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import ArchiveError, RecipeError, TeacherCacheError, UnfitError
from teacher_cache.labelling.calibrate import Calibrated, joined, shared_arrays
from teacher_cache.labels.affinity_rule import CalibrationPart
from teacher_cache.labels.agreement import Agreement
from teacher_cache.labels.topk import Basis
from teacher_cache.models.teacher import build_teacher
from teacher_cache.program.progress import counting
from teacher_cache.storage.store import Store
from teacher_cache.views.probe import check_probe, library_versions, probe_digest


@dataclasses.dataclass(frozen=True)
class Labelled:
    """A unit that is computed but not yet written."""

    unit: Unit
    timed: TimedLabels


@dataclasses.dataclass(frozen=True)
class CalibratedPart:
    """A part of the calibration views that is computed but not yet written."""

    part: CalibrationPart
    timed: TimedViews


class LabelWorker:
    """Worker that labels units and writes them to the archive of an order; see Worker.

    Raises:
        InputError: See `PackedDataset` and `build_teacher`.
    """

    def __init__(self, order: WorkOrder) -> None:
        self._store, self._room, self._recipe = order.archive, order.room, order.recipe
        dataset = PackedDataset(order.data, order.room, order.images_in)
        teacher = build_teacher(
            order.teacher,
            classes=dataset.info.class_list,
            img_size=order.recipe.img_size,
            compare_names=order.compare_names,
        )
        self._labeller = Labeller(
            dataset, order.recipe, teacher, batch_size=order.batch_size, workers=order.workers
        )
        self._opened: ArchiveWriter | None = None

    def describe(self) -> Description:
        """Return this worker's teacher, libraries and device."""
        teacher = self._labeller.teacher
        return Description(
            teacher.spec.to_dict(),
            probe_digest(self._recipe),
            library_versions(),
            torch.cuda.get_device_name(teacher.device)
            if teacher.device.type == "cuda"
            else teacher.device.type,
            teacher.classes_are_known,
        )

    def measure(self, layout: Layout, unit: Unit, num_views: int) -> Rate:
        """Label the first views of a unit; see `Labeller.measure`."""
        return self._labeller.measure(layout, unit, num_views)

    def try_calibration(self, num_views: int) -> Trial:
        """Time some calibration views; nothing is written. See Worker."""
        start_s = time.perf_counter()
        timed = self._labeller.calibrate(CalibrationPart(0, num_views, num_views), ignore)
        rate = Rate(num_views, time.perf_counter() - start_s, timed.render_s, 0.0)
        return Trial(rate, timed.views.agreement)

    def freeze_calibration(self, parts: Sequence[CalibrationPart]) -> Agreement | None:
        """Write the result of all parts: the class affinity or basis, and the agreement; see Worker."""
        writer, store = self._archive(), self._store
        try:
            found = get_parts(store, parts)
        except FileNotFoundError:  # another driver has just frozen this calibration
            if _lacks_shared(writer):
                raise
            return get_agreement(store, writer.spec)
        views = joined([_opened(store, part, data) for part, data in zip(parts, found, strict=True)])
        shared = shared_arrays(views, writer.spec.labels) if _lacks_shared(writer) else None
        if shared is not None:
            writer.freeze_shared(shared)
        agreement = views.agreement
        if agreement is not None:
            put_agreement(store, writer.spec, agreement)
        delete_parts(store)
        return agreement

    def put_figures(self, archive: Store, advance: Advance) -> None:
        """Write figures of a finished archive's labels, if it has a view of all images; see Worker."""
        reader = ArchiveReader(archive.url, self._room)
        if reader.views:
            measure_and_put(reader, archive, self._labeller.dataset, counting(advance))

    def compute(self, task: Task, advance: Advance) -> Labelled | CalibratedPart:
        """Label a unit, or a part of the calibration views; see `extract_unit` and `calibrate_part`.

        Raises:
            UnfitError: The archive was begun with other images, weights or libraries than this worker's.
        """
        labels = self._archive().spec.labels
        if isinstance(task, CalibrationPart):
            for_basis = labels.components is not None
            return CalibratedPart(task, self._labeller.calibrate(task, advance, for_basis=for_basis))
        return Labelled(task, self._labeller.label(task, labels, self._basis, advance))

    @functools.cached_property
    def _basis(self) -> Basis | None:
        """Basis of the labels' codes, on the teacher's device; None for labels without codes."""
        basis = self._archive().basis()
        return None if basis is None else basis.to(self._labeller.teacher.device)

    def write(self, computed: Labelled | CalibratedPart) -> UnitResult:
        """Write a unit's objects, then its receipt; or the object of a part of the calibration."""
        writer, timed, start_s = self._archive(), computed.timed, time.perf_counter()
        if isinstance(computed, CalibratedPart):
            data = computed.timed.views.to_bytes()
            put_part(self._store, computed.part, data)
            views, num_bytes = len(computed.timed.views.labels_N), len(data)
        else:
            keys_sha256 = self._labeller.keys_sha256(computed.unit)
            receipt = writer.commit(computed.unit, computed.timed.labels, keys_sha256)
            views, num_bytes = computed.timed.labels.tail.size, receipt.num_bytes
        return UnitResult(
            views=views,
            num_bytes=num_bytes,
            render_s=timed.render_s,
            teacher_s=timed.teacher_s,
            write_s=time.perf_counter() - start_s,
        )

    def close(self) -> None:
        """End the processes that render."""
        self._labeller.close()

    def _archive(self) -> ArchiveWriter:
        """Return the opened archive, after checking that images, teacher and pixels are this worker's."""
        if self._opened is None:
            spec = existing_spec(self._store)
            ours = (self._labeller.dataset.info.sha256, self._labeller.teacher.spec.to_dict())
            theirs = (spec.dataset["sha256"], spec.teacher)
            if theirs != ours:
                raise UnfitError(
                    "a worker and the archive differ in "
                    + "; ".join(differing_fields("", *map(_identity, (theirs, ours)))),
                    "The archive would mix labels of different images or teachers.",
                    "give all machines the same --data and --checkpoint, and use devices of one kind",
                )
            try:
                check_probe(self._recipe, spec.probe_sha256, spec.made_with)
            except (RecipeError, ArchiveError) as error:
                raise UnfitError(error.value, error.consequence, error.remedy) from error
            self._opened = ArchiveWriter(self._store, spec)
        return self._opened


def _lacks_shared(writer: ArchiveWriter) -> bool:
    """Return whether the archive needs a class affinity or a basis, and has none at this moment."""
    return writer.spec.labels.shared_rule is not None and writer.shared is None


def _identity(parts: tuple[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {"dataset": parts[0], "teacher": parts[1]}


def _opened(store: Store, part: CalibrationPart, data: bytes) -> Calibrated:
    try:
        return Calibrated.from_bytes(data)
    except ValueError as error:
        delete_parts(store, [part])
        raise TeacherCacheError(
            f"{part.name} of {store.url} is damaged", "It was deleted.", "run the same command again"
        ) from error
