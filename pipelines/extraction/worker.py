"""Worker of every engine: a labeller and the archive that it writes to."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import torch

from pipelines.extraction.engines.engine import Advance, UnitResult
from pipelines.extraction.labeller import Labeller, TimedLabels, load_teacher
from pipelines.extraction.order import Description, Rate, WorkOrder
from teacher_cache.archive.layout import Layout, Unit
from teacher_cache.archive.spec_file import existing_spec
from teacher_cache.archive.write import ArchiveWriter
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import ArchiveError, RecipeError, UnfitError
from teacher_cache.program.flags import parse_kwargs
from teacher_cache.storage.store import Store
from teacher_cache.views.probe import check_probe, library_versions, probe_digest


@dataclasses.dataclass(frozen=True)
class Labelled:
    """A unit that is computed but not yet written."""

    unit: Unit
    timed: TimedLabels


class LabelWorker:
    """Worker that labels units and writes them to the archive of an order; see Worker.

    Raises:
        InputError: See `PackedDataset` and `build_teacher`.
    """

    def __init__(self, order: WorkOrder) -> None:
        request = order.request
        self._request, self._recipe = request, order.recipe
        dataset = PackedDataset(request.data, request.room)
        teacher = load_teacher(
            request,
            request.teacher,
            dataset.info.class_list,
            order.recipe.img_size,
            parse_kwargs(request.model_kwargs),
            request.precision,
        )
        self._labeller = Labeller(
            dataset, order.recipe, teacher, batch_size=request.batch_size, workers=request.workers
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
        )

    def measure(self, layout: Layout, unit: Unit, num_views: int) -> Rate:
        """Label the first views of a unit; see `Labeller.measure`."""
        return self._labeller.measure(layout, unit, num_views)

    def freeze_affinity(self, advance: Advance) -> None:
        """Calibrate the archive's class affinity and write it, unless it exists."""
        writer = self._archive()
        rule = writer.spec.labels.affinity
        assert rule is not None
        writer.freeze_affinity(self._labeller.affinity(rule, advance))

    def compute(self, unit: Unit, advance: Advance) -> Labelled:
        """Label a unit; see `extract_unit`.

        Raises:
            UnfitError: The archive was begun with other images, weights or libraries than this worker's.
        """
        labels = self._archive().spec.labels
        return Labelled(unit, self._labeller.label(unit, labels, advance))

    def write(self, computed: Labelled) -> UnitResult:
        """Write a unit's objects, then its receipt."""
        writer, timed, start_s = self._archive(), computed.timed, time.perf_counter()
        keys_sha256 = self._labeller.keys_sha256(computed.unit)
        receipt = writer.commit(computed.unit, timed.labels, keys_sha256)
        return UnitResult(
            views=timed.labels.tail.size,
            num_bytes=receipt.num_bytes,
            render_s=timed.render_s,
            teacher_s=timed.teacher_s,
            write_s=time.perf_counter() - start_s,
        )

    def close(self) -> None:
        """End the processes that render."""
        self._labeller.close()

    def _archive(self) -> ArchiveWriter:
        """Open the archive, if it was begun with this worker's images, teacher and pixels."""
        if self._opened is None:
            store = Store(self._request.out)
            spec = existing_spec(store)
            ours = (self._labeller.dataset.info.sha256, self._labeller.teacher.spec.to_dict())
            theirs = (spec.dataset["sha256"], spec.teacher)
            if theirs != ours:
                raise UnfitError(
                    f"a worker has {_identity(*ours)}, the archive {_identity(*theirs)}",
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
