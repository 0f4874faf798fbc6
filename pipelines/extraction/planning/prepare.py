"""Check a request against an archive and find the missing units, before the first unit."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.extraction.engines.engine import Engine
from pipelines.extraction.messages import Description
from pipelines.extraction.queue import MissingUnits, default_views_per_unit
from pipelines.extraction.request import ExtractRequest
from teacher_cache.archive.format.calibration import missing_parts
from teacher_cache.archive.format.layout import Unit
from teacher_cache.archive.format.receipts import AGREEMENT_FILE, Receipt
from teacher_cache.archive.format.spec import ArchiveSpec, LabelSpec
from teacher_cache.archive.readers.read_units import fetched_shared
from teacher_cache.archive.writers.extension import extension
from teacher_cache.archive.writers.write import ArchiveWriter
from teacher_cache.errors import InputError
from teacher_cache.labels.affinity_rule import (
    CalibrationPart,
    affinity_rule,
    calibration_parts,
    component_rule,
    num_calibration_views,
)
from teacher_cache.labels.arrays import check_topk


@dataclasses.dataclass(frozen=True)
class Extraction:
    """A request, the engine that computes it, and what the engine's workers say of themselves."""

    request: ExtractRequest
    engine: Engine
    worker: Description


@dataclasses.dataclass(frozen=True)
class Prepared:
    """An archive and the units it lacks.

    Attributes:
        writer: Writer of the archive; its spec has the archive's own layout.
        extends: Receipts of units in other archives that replace requested units, by relative URL.
        is_labelled: Whether the images have true labels.
        is_calibrated: Whether the class affinity or the basis is taken from another archive.
    """

    writer: ArchiveWriter
    extends: Mapping[str, tuple[Receipt, ...]]
    missing: MissingUnits
    is_labelled: bool
    is_calibrated: bool = False

    @functools.cached_property
    def calibration(self) -> list[CalibrationPart]:
        """All parts of the calibration; empty if its result is already written, or is not needed.

        Calibration views are labelled to measure the class affinity or the basis, and to compare the
        teacher with the true labels before units are computed.
        """
        if self.is_calibrated:
            return []
        spec = self.writer.spec
        needs_shared = spec.labels.shared_rule is not None and self.writer.shared is None
        needs_agreement = (
            bool(len(self.missing)) and self.is_labelled and self.writer.store.stat(AGREEMENT_FILE) is None
        )
        if not needs_shared and not needs_agreement:
            return []
        rule = spec.labels.shared_rule if needs_shared else None
        num_rows = sum(count for _, count in spec.dataset["shards"])
        return calibration_parts(num_calibration_views(rule, spec.labels.num_classes, num_rows))

    def without(self, units: Sequence[Unit]) -> Prepared:
        """Return a copy without units that are taken, with their class affinity, from other archives."""
        missing = self.missing.without(units)
        return dataclasses.replace(self, missing=missing, is_calibrated=bool(units))

    @functools.cached_property
    def missing_calibration(self) -> list[CalibrationPart]:
        """Parts of the calibration that must be computed."""
        return missing_parts(self.writer.store, self.calibration)


def archive_spec(request: ExtractRequest, worker: Description) -> ArchiveSpec:
    """Return the spec of the requested archive, from everything that determines the labels."""
    dataset = request.dataset.info
    num_classes = worker.teacher["num_classes"]
    check_topk(request.topk, num_classes)
    base = request.extends.manifest.spec.views_per_unit if request.extends else None
    return ArchiveSpec(
        dataset={
            "sha256": dataset.sha256,
            "shards": [(shard.identity, shard.num_samples) for shard in dataset.shards],
        },
        recipe=request.order.recipe.to_dict(),
        teacher=worker.teacher,
        labels=LabelSpec(
            request.topk,
            num_classes,
            dataset.class_list.sha256,
            values=request.values,
            **_rules(request, num_classes),
        ),
        probe_sha256=worker.probe_sha256,
        views_per_unit=request.views_per_unit or base or default_views_per_unit(len(request.views)),
        made_with=worker.made_with,
    )


def _rules(request: ExtractRequest, num_classes: int) -> dict[str, Any]:
    """Return the calibration rules of a request's labels: of codes if it asks for them, or of an affinity."""
    if request.num_codes and request.topk < num_classes:
        return {
            "components": component_rule(request.num_codes, num_classes, request.dataset.info.num_samples)
        }
    has_affinity = request.has_affinity and not request.num_codes
    rule = affinity_rule(request.topk, num_classes, request.dataset.info.num_samples)
    return {"affinity": rule if has_affinity else None}


def prepare(request: ExtractRequest, asked: ArchiveSpec) -> Prepared:
    """Find the missing units; nothing is written.

    Raises:
        ArchiveError: The folder holds another archive or other files.
        InputError: The requested units do not fit the archive's layout.
    """
    return _prepared(request, ArchiveWriter.open(request.archive, asked, create=False))


def begin(request: ExtractRequest, asked: ArchiveSpec, before: Prepared) -> Prepared:
    """Write the archive's spec, which fixes its layout, and return `before` with the open writer.

    The missing units are found again if another process has just written a spec with another layout.
    Raises as `prepare`.
    """
    writer = ArchiveWriter.open(request.archive, asked, create=True)
    if request.extends is not None and asked.labels.components is not None:
        writer.put_shared(fetched_shared(*request.extends))  # its units are written in its basis
    if before.writer.spec.layout == writer.spec.layout:
        return dataclasses.replace(before, writer=writer)
    return _prepared(request, writer)


def _prepared(request: ExtractRequest, writer: ArchiveWriter) -> Prepared:
    layout = writer.spec.layout
    if request.views_per_unit not in (None, layout.views_per_unit):
        raise InputError(
            f"--views-per-unit {request.views_per_unit}, but {request.archive.url} "
            f"holds {layout.views_per_unit} views a unit",
            "An archive cannot hold units of two sizes.",
            "remove the flag, or choose a new folder with --out",
        )
    extends = extension(request.archive, writer.spec, *request.extends) if request.extends else {}
    elsewhere = itertools.chain.from_iterable([*writer.extends.values(), *extends.values()])
    finished = (receipt.unit for receipt in itertools.chain(writer.receipts(), elsewhere))
    missing = MissingUnits(layout, request.views, finished)
    is_calibrated = request.extends is not None and writer.spec.labels.components is not None
    return Prepared(writer, extends, missing, request.dataset.index.is_labelled, is_calibrated)
