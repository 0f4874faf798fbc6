"""Merge archives of one fingerprint that were made apart: their units are hashed and copied."""

from __future__ import annotations

from collections.abc import Sequence

from teacher_cache.archive.format.calibration import copy_agreement
from teacher_cache.archive.format.receipts import Receipt
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.archive.readers.read_units import fetched_shared
from teacher_cache.archive.writers.write import ArchiveWriter
from teacher_cache.errors import ArchiveError
from teacher_cache.program.progress import Track
from teacher_cache.storage.store import Store


def merge(sources: Sequence[ArchiveReader], destination: Store, track: Track) -> list[str]:
    """Copy every unit of some archives into one archive, new or of the same fingerprint.

    The first copy of a unit that several archives have is kept: on one kind of device the copies are the same
    bytes. The first class affinity is kept too; bases must be the same. Units of extended archives are
    copied, so the result needs no other archive.

    Returns:
        Names of units whose bytes differed between archives.

    Raises:
        ArchiveError: The fingerprints, the bases or the sizes of units differ, or a unit is damaged.
    """
    writer = ArchiveWriter.open(destination, sources[0].spec)
    for source in sources:
        if source.spec.fingerprint != writer.spec.fingerprint:
            ArchiveWriter.open(destination, source.spec)  # raises the error that lists the differences
        if source.spec.views_per_unit != writer.spec.views_per_unit:
            raise ArchiveError(
                f"{source.url} has {source.spec.views_per_unit} views a unit, {destination.url} "
                f"{writer.spec.views_per_unit}",
                "All units of an archive must have the same number of views.",
                "extract one of them again, with the other's --views-per-unit",
            )
    for source in sources if writer.spec.labels.components is not None else sources[:1]:
        if source.manifest.shared is not None:
            writer.put_shared(fetched_shared(source.store, source.manifest))
    copy_agreement(sources[0].store, destination, writer.spec)
    differ = []
    with track("merge", sum(len(source.receipts) for source in sources), "units") as advance:
        for source in sources:
            for receipt in source.receipts:
                if not _same(writer, source, receipt):
                    differ.append(receipt.unit.name)
                advance(1)
    writer.finish()
    return differ


def _same(writer: ArchiveWriter, source: ArchiveReader, receipt: Receipt) -> bool:
    objects = source.objects(receipt)
    kept = writer.put_objects(receipt.unit, objects, receipt.rows, receipt.keys_sha256)
    return kept.objects == receipt.objects
