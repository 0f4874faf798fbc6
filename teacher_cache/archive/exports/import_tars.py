"""Turn exported tars back into an archive, with every tar hashed and read strictly: see tars.py."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

from teacher_cache import images
from teacher_cache.archive.format.calibration import copy_agreement
from teacher_cache.archive.format.layout import Unit
from teacher_cache.archive.format.tars import META_OF_RECORDS, VERSION_OF_RECORDS, members_of
from teacher_cache.archive.readers.read_tars import ExportReader
from teacher_cache.archive.writers.write import ArchiveWriter
from teacher_cache.dataset.index import DATASET_FILE
from teacher_cache.dataset.sources.tar_members import samples_of
from teacher_cache.errors import ArchiveError, DamagedError
from teacher_cache.exact.canonical import file_sha256
from teacher_cache.labels.arrays import LabelArrays
from teacher_cache.program.progress import Track
from teacher_cache.storage.store import Store


def import_tars(export: ExportReader, destination: Store, track: Track) -> ArchiveWriter:
    """Write an export's labels to an archive; return its writer. Whole units get their original bytes.

    Every tar is hashed and read strictly: all members must have the names, kinds and sizes an export writes.

    Raises:
        InputError, ArchiveError: The first view does not begin a block; a tar has members that no export has.
        DatasetError: A tar holds links, odd names or duplicates.
    """
    spec = export.spec
    units = list(spec.layout.units(export.views[0], export.views[-1] + 1))
    writer = ArchiveWriter.open(destination, spec)
    if writer.spec.views_per_unit != spec.views_per_unit:
        raise ArchiveError(
            f"{export.url} has {spec.views_per_unit} views a unit, {destination.url} "
            f"{writer.spec.views_per_unit}",
            "Units of two sizes cannot lie in one archive.",
            "import into a new folder",
        )
    shared = export.checked_shared()
    if shared is not None:
        writer.freeze_shared(shared)
    copy_agreement(export.store, destination, spec)
    with track("import", len(export.info.shards), "shards") as advance:
        for number, shard in enumerate(export.info.shards):
            with export.store.local_copy(shard.name) as path:
                _check_tar(path, export, number)
            labels = export.records(number)
            first = number * export.info.samples_per_shard
            keys_sha256 = export.index.keys_sha256(first, first + shard.num_samples)
            for unit in units:
                if unit.shard == number:
                    some = LabelArrays(*(values[:, _places(unit, export.views[0])] for values in labels))
                    writer.commit(unit, some, keys_sha256)
            advance(1)
    writer.finish()
    return writer


def _places(unit: Unit, first_view: int) -> slice:
    return slice(unit.first_view - first_view, unit.stop_view - first_view)


def _check_tar(path: Path, export: ExportReader, shard: int) -> None:
    """Refuse a tar that differs by a byte from the exported one, or has members that an export never has."""
    digest = file_sha256(path)
    info = export.info.shards[shard]
    if digest != info.sha256:
        raise DamagedError(
            f"{path} does not have the sha256 in {DATASET_FILE}",
            "Its labels cannot be trusted.",
            "copy the export again",
        )
    first = shard * export.info.samples_per_shard
    labels = (member.extension for member in members_of(export.spec.layout, export.version))
    members = tuple(sorted(["cls", "image", *labels]))
    rows = range(first, first + info.num_samples)
    expected = [*_meta(export), *((export.index.key(row), members) for row in rows)]
    found = ((key, _kinds(members)) for key, members in samples_of(path))
    for number, (sample, wanted) in enumerate(itertools.zip_longest(found, expected)):
        if sample != wanted:
            raise ArchiveError(
                f"sample {number} of {path} is {sample or 'missing'}, not {wanted or 'there'}",
                "An export holds the image, cls and labels of each sample, in order, and nothing else.",
                "export the archive again, with this program",
            )


def _meta(export: ExportReader) -> list[tuple[str, tuple[str, ...]]]:
    """Return the key and extensions of each entry before a tar's samples; only version 1 has any."""
    if export.version != VERSION_OF_RECORDS:
        return []
    found: list[tuple[str, tuple[str, ...]]] = [(f"{META_OF_RECORDS}/spec", ("json",))]
    return (
        found if export.spec.labels.affinity is None else [*found, (f"{META_OF_RECORDS}/affinity", ("npy",))]
    )


def _kinds(members: Iterable[str]) -> tuple[str, ...]:
    """Return the sorted extensions of a sample's members, with "image" for that of an image."""
    return tuple(sorted("image" if extension in images.EXTENSIONS else extension for extension in members))
