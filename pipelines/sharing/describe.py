"""Describe an archive to others: its card, and a signature with a statement of how it was made."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import NamedTuple

import teacher_cache
from pipelines.extraction.running.record import REPORT_FILE
from pipelines.sharing.flags import CardConfig, SignConfig
from teacher_cache.archive.format.companions import are_figures_current
from teacher_cache.archive.format.part import refuse_part
from teacher_cache.archive.format.signature import Statement, private_key, sign
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.archive.verify import problems_of, reader_to_verify
from teacher_cache.errors import ArchiveError, InputError, StoreError
from teacher_cache.program.progress import Track
from teacher_cache.sharing.card import About, put_card
from teacher_cache.sharing.sums import put_sums
from teacher_cache.storage.store import Store


class Runs(NamedTuple):
    """Devices and hours in the records of an archive's runs; hours are None without a record."""

    device: str
    gpu_hours: float | None


def runs_of(archive: str) -> Runs:
    """Return devices and hours from the records in ARCHIVE.runs; records that cannot be read are skipped."""
    try:
        store = Store(f"{archive.rstrip('/')}.runs")
        names = sorted(name for name in store.sizes_if_listed() or () if name.endswith(f"/{REPORT_FILE}"))
        reports = [json.loads(store.get(name)) for name in names]
        devices = sorted({str(report["device"]) for report in reports})
        hours = [float(report["actual"]["gpu_hours"]) for report in reports]
    except (StoreError, InputError, OSError, ValueError, KeyError, TypeError, RecursionError):
        return Runs("", None)
    return Runs(", ".join(devices), round(sum(hours), 4) if hours else None)


def sign_archive(config: SignConfig, track: Track) -> Statement:
    """Check every object and label of an archive, sign it, then write its checksums.

    Raises:
        ArchiveError: The archive is damaged, or is a part. See also `ArchiveReader`.
        InputError: The key cannot be used; a text is too long.
    """
    key = private_key(Path(config.key))
    reader, runs, store = reader_to_verify(config.archive), runs_of(config.archive), Store(config.archive)
    refuse_part(store, "signing it", "sign the whole archive, where it was made")
    problems = problems_of(reader, "full", track)
    if problems:
        raise ArchiveError(
            f"{config.archive} has {len(problems):,} problems, such as: {problems[0]}",
            "A signature would vouch for damaged labels; nothing was signed.",
            f"repair it first: teacher-cache repair {config.archive}",
        )
    about = {
        "who": config.who,
        "when": _now().isoformat(timespec="seconds"),
        "made_with": f"teacher-cache {teacher_cache.__version__}",
        "device": runs.device if config.device is None else config.device,
        "gpu_hours": runs.gpu_hours if config.gpu_hours is None else config.gpu_hours,
        "image_license": config.image_license,
        "teacher_license": config.teacher_license,
    }
    statement = sign(store, reader.manifest, key, about)
    put_sums(reader, store)
    return statement


def write_card(config: CardConfig, track: Track) -> list[str]:
    """Write the card of an archive, after measuring its figures where they are not measured yet.

    Raises:
        InputError: The dataset is not the one that was labelled. See also `ArchiveReader`.
    """
    reader, store = ArchiveReader(config.archive, config.room), Store(config.archive)
    if config.data is not None and not are_figures_current(store):
        from teacher_cache.archive.figures.measure import measure_and_put
        from teacher_cache.dataset.shards import PackedDataset

        dataset = PackedDataset(config.data, config.room, config.images_in)
        reader.check_replay(dataset.info)
        measure_and_put(reader, store, dataset, track)
    runs = runs_of(config.archive)
    cost = "" if runs.gpu_hours is None else f"{runs.gpu_hours:,.3g} teacher hours on {runs.device}"
    about = About(
        name=config.name,
        license=config.license,
        image_license=config.image_license,
        teacher_license=config.teacher_license,
        url=config.url or config.archive,
        date=_now().date().isoformat(),
        cost=cost,
    )
    return put_card(reader, store, about)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
