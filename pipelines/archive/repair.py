"""Repair an archive: rebuild documents or the manifest from each other, and let the teacher label units."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from pipelines.archive.flags import RepairConfig
from pipelines.extraction.worker.labeller import Labeller, labeller_of
from teacher_cache.archive.figures.measure import measure_and_put
from teacher_cache.archive.format.calibration import delete_parts, drop_damaged_agreement
from teacher_cache.archive.format.companions import FIGURES, damaged_companions
from teacher_cache.archive.format.layout import Unit
from teacher_cache.archive.format.manifest import Manifest, documents_of, read_manifest, zarr_documents
from teacher_cache.archive.format.part import refuse_part
from teacher_cache.archive.format.receipts import digests_of, refuse_other_basis
from teacher_cache.archive.format.spec import SPEC_FILE
from teacher_cache.archive.format.spec_file import existing_spec
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.archive.verify import Problem, verify
from teacher_cache.archive.writers.write import ArchiveWriter
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import DamagedError, InputError
from teacher_cache.labelling.calibrate import joined, shared_arrays
from teacher_cache.labels.affinity_rule import calibration_parts, num_calibration_views
from teacher_cache.program.progress import Track
from teacher_cache.storage.store import Store


@dataclasses.dataclass(frozen=True)
class RepairReport:
    """Findings and results of a repair.

    Attributes:
        found: Problems that were found, a line each.
        computed: Names of the units that were computed again; "affinity" or "basis" names what they share.
        changed: Names of the units whose bytes changed, because of another kind of device.
        left: Problems that remain, a line each.
    """

    found: list[str]
    computed: list[str]
    changed: list[str]
    left: list[str]


def repair(config: RepairConfig, track: Track) -> RepairReport:
    """Find and mend all problems of an archive.

    Raises:
        InputError: Units must be computed again, and the images or the teacher are not given.
        ArchiveError: There is no finished archive, or no document that describes it is left.
    """
    store = Store(config.archive)
    refuse_part(store, "mending it", "pull the same part again with --recheck")
    store.sweep()
    found = _manifest(store)
    missing = _missing(ArchiveReader(config.archive)) if found else []
    problems = verify(config.archive, "full", track)
    found += [f"unit {unit.name} is missing" for unit in missing] + [problem.what for problem in problems]
    _rewrite_documents(store)
    drop_damaged_agreement(store, read_manifest(store).spec)
    delete_parts(store)
    damaged = {problem.receipt.unit: None for problem in problems if problem.receipt is not None}
    units = [*missing, *damaged]
    needs_shared = any(problem.is_shared for problem in problems)
    done = _Done([], [])
    if units or needs_shared:
        labeller = _labeller(config, units, problems)
        done = _compute(labeller, store, units, needs_shared, track)
    ArchiveWriter(store, read_manifest(store).spec).finish()
    done.computed.extend(_mend_figures(config, store, track))
    left = [problem.what for problem in verify(config.archive, "full", track)] if found else []
    return RepairReport(found, done.computed, done.changed, left)


def _mend_figures(config: RepairConfig, store: Store, track: Track) -> list[str]:
    """Delete damaged figures, and measure them again if images are given; return the measured names."""
    damaged = [name for name in damaged_companions(store) if name.startswith(f"{FIGURES}/")]
    for name in damaged:
        store.delete(name)
    if not damaged or config.data is None:
        return []
    reader, dataset = (
        ArchiveReader(config.archive, config.room),
        PackedDataset(config.data, config.room, config.images_in),
    )
    measure_and_put(reader, store, dataset, track)
    return [FIGURES]


def _manifest(store: Store) -> list[str]:
    """Rebuild a damaged manifest from the spec and the receipts; return the problem, or an empty list."""
    try:
        read_manifest(store)
    except DamagedError as error:
        if store.stat(SPEC_FILE) is None:
            raise
        writer = ArchiveWriter(store, existing_spec(store))
        writer.finish()
        return [error.value]
    return []


def _missing(reader: ArchiveReader) -> list[Unit]:
    """Return the units that a rebuilt manifest lacks: those of blocks that at least one other shard has."""
    stops: dict[int, int] = {}
    for receipt in reader.receipts:
        stops[receipt.unit.block] = max(receipt.unit.stop_view, stops.get(receipt.unit.block, 0))
    there = {(receipt.unit.shard, receipt.unit.block) for receipt in reader.receipts}
    size = reader.spec.layout.views_per_unit
    return [
        Unit(shard, block, block * size, stop)
        for block, stop in sorted(stops.items())
        for shard in range(reader.spec.layout.num_shards)
        if (shard, block) not in there
    ]


def _rewrite_documents(store: Store) -> None:
    """Write every document that the manifest implies."""
    manifest = read_manifest(store)
    documents = {
        **documents_of(manifest, manifest.receipts),
        **zarr_documents(manifest.spec, manifest.all_receipts),
    }
    for name, data in documents.items():
        if store.stat(name) != len(data) or store.get(name) != data:
            store.put(name, data)


def _labeller(config: RepairConfig, units: list[Unit], problems: list[Problem]) -> Labeller:
    if config.data is None:
        names = ", ".join([unit.name for unit in units[:5]] or ["what they share"])
        raise InputError(
            f"{len(units):,} units of {config.archive} must be computed again: {names}",
            f"{len(problems):,} problems were found; computing needs the images and the teacher.",
            "give --data, and --checkpoint if the teacher's weights are not from the hub",
        )
    return labeller_of(
        ArchiveReader(config.archive),
        PackedDataset(config.data, config.room, config.images_in),
        config.settings(config.teacher or ""),
        batch_size=config.batch_size,
        workers=config.workers,
    )


class _Done(NamedTuple):
    computed: list[str]
    changed: list[str]


def _compute(labeller: Labeller, store: Store, units: list[Unit], needs_shared: bool, track: Track) -> _Done:
    before = read_manifest(store)
    spec, done = before.spec, _Done([], [])
    writer = ArchiveWriter(store, spec)
    if needs_shared:
        _calibrate_again(labeller, writer, before, track)
        done.computed.append(spec.labels.shared_kind)
        if writer.shared != before.shared:
            done.changed.append(spec.labels.shared_kind)
    basis = writer.basis()
    if basis is not None:
        basis = basis.to(labeller.teacher.device)
    there = {receipt.unit: receipt.objects for receipt in before.all_receipts}
    num_views = sum(spec.rows(unit.shard) * len(unit.views) for unit in units)
    with track("repair", num_views, "views") as advance:
        for unit in units:
            objects = spec.layout.encode_unit(labeller.label(unit, spec.labels, basis, advance).labels)
            keys_sha256 = labeller.keys_sha256(unit)
            receipt = writer.put_objects(unit, objects, spec.rows(unit.shard), keys_sha256, replace=True)
            done.computed.append(unit.name)
            if there.get(unit, receipt.objects) != receipt.objects:
                done.changed.append(unit.name)
    return done


def _calibrate_again(labeller: Labeller, writer: ArchiveWriter, before: Manifest, track: Track) -> None:
    """Write the class affinity again, or the basis if it has the bytes that it had. Raises ArchiveError."""
    spec = before.spec
    num_views = num_calibration_views(spec.labels.shared_rule, spec.labels.num_classes, len(labeller.dataset))
    for_basis = spec.labels.components is not None
    with track("calibrate", num_views, "views") as advance:
        parts = [
            labeller.calibrate(part, advance, for_basis=for_basis).views
            for part in calibration_parts(num_views)
        ]
    arrays = shared_arrays(joined(parts), spec.labels)
    if arrays is None:
        return
    objects = spec.layout.encode_shared(arrays)
    if for_basis:
        refuse_other_basis(writer.store.url, before.shared or {}, digests_of(objects))
    writer.put_shared(objects, replace=True)
