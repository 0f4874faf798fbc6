"""Run the commands that check, repair, convert and inspect archives, and print their results."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, NamedTuple

from pipelines.archive.flags import (
    ExportConfig,
    ImportConfig,
    InspectConfig,
    MergeConfig,
    RepairConfig,
    StatusConfig,
    VerifyConfig,
)
from teacher_cache.errors import InputError
from teacher_cache.program.commandline import packages_of, show
from teacher_cache.program.flags import parse_views
from teacher_cache.program.say import say

if TYPE_CHECKING:
    from teacher_cache.archive.format.trust import Trust
    from teacher_cache.archive.readers.archive import ArchiveReader


def verify(config: VerifyConfig) -> int:
    """Print the problems of an archive; the exit code is 1 if there are any."""
    from teacher_cache.archive import verify as check
    from teacher_cache.archive.format.trust import Trust, trust_of
    from teacher_cache.program.progress import console

    trust, signed, lines = trust_of(config.key, config.manifest), Signed([], []), []
    if config.level != "teacher" or config.key is not None:
        unsigned = trust if config.key is None else dataclasses.replace(trust, keys=None, pinned=())
        reader = check.reader_to_verify(config.archive, unsigned)
        if config.key is not None:
            signed = _signed(config.archive, reader, trust, config.key)
        trust = Trust(manifests=(reader.manifest_sha256,))  # what is checked below is what is signed
        lines = [*signed.lines, *_part_lines(reader)]
    if config.level == "teacher":
        return max(_recheck(config, trust, lines, signed.problems), 1 if signed.problems else 0)
    found = check.problems_of(reader, config.level, console)
    problems = [*signed.problems, *(problem.what for problem in found)]
    lines += [*problems, f"{config.archive}: {len(problems) or 'no'} problems ({config.level})"]
    of_part = None if reader.part is None else {"units": len(reader.receipts), "of": reader.num_units}
    show(config, {"level": config.level, "problems": problems, "part": of_part}, lines)
    return 1 if problems else 0


class Signed(NamedTuple):
    """Problems of an archive's signatures, and lines that say what its valid statements say."""

    problems: list[str]
    lines: list[str]


def _part_lines(reader: ArchiveReader) -> list[str]:
    if reader.part is None:
        return []
    return [
        f"{reader.url} is a part: {len(reader.receipts):,} of the archive's {reader.num_units:,} units are "
        "here, and only these are checked"
    ]


def _signed(url: str, reader: ArchiveReader, trust: Trust, file: str) -> Signed:
    """Check an archive's signatures by the keys of a file."""
    with packages_of("share", "verify --key"):
        from teacher_cache.archive.format.signature import check_signatures, keys_in

    assert trust.keys is not None
    found = check_signatures(reader.store, reader.manifest, keys_in(trust.keys, file))
    problems = list(found.problems)
    if found.valid:
        try:
            trust.refuse_older(url, found.valid)
        except InputError as error:
            problems.append(error.value)
    others = [f"not looked at: a signature by {name}, which is not pinned" for name in found.unknown]
    return Signed(problems, [*map(str, found.valid), *others])


def repair(config: RepairConfig) -> int:
    """Repair an archive, and print the problems; the exit code is 1 if some remain."""
    from pipelines.archive import repair as mend
    from teacher_cache.program.progress import console

    report = mend.repair(config, console)
    lines = [f"found: {line}" for line in report.found]
    for name in report.computed:
        lines.append(f"computed again: {name}" + (", to other bytes" if name in report.changed else ""))
    lines += [f"left: {line}" for line in report.left]
    lines.append(
        f"{config.archive}: {len(report.found) or 'no'} problems found, {len(report.left) or 'none'} left"
    )
    show(config, report, lines)
    return 1 if report.left else 0


def status(config: StatusConfig) -> int:
    """Print the coverage of an archive, or the state of a job."""
    if config.archive is None:
        from pipelines.jobs.ray_jobs import job_status

        job = str(config.job)
        state = job_status(config, job)
        show(config, {"job": job, "state": state}, [f"{job}: {state}"])
        return 0
    from rich.console import Console

    from pipelines.archive import status as coverage

    found = coverage.status(config.archive)
    if config.json:
        say(json.dumps(dataclasses.asdict(found)))
        return 0
    console = Console(highlight=False)
    for line in coverage.picture(found, console.width):
        console.print(line)
    if found.agreement is not None:
        console.print(str(found.agreement))
    state = "finished" if found.finished else "not finished: run the same extract again"
    console.print(
        f"{config.archive}: {state}, {found.label_bytes:,} bytes, fingerprint {found.fingerprint[:12]}"
    )
    return 0


def export(config: ExportConfig) -> int:
    """Write labels in another format."""
    from teacher_cache.archive.exports.export_parquet import export_images, export_parquet
    from teacher_cache.archive.exports.export_tars import export_tars
    from teacher_cache.archive.format.trust import trust_of
    from teacher_cache.archive.readers.archive import ArchiveReader
    from teacher_cache.dataset.shards import PackedDataset
    from teacher_cache.program.progress import console
    from teacher_cache.storage.store import Store

    trust = trust_of(config.key, config.manifest)
    reader, dataset, destination = (
        ArchiveReader(config.archive, trust=trust),
        PackedDataset(config.data, images_in=config.images_in),
        Store(config.dst),
    )
    whole = range(min(reader.views, default=0), max(reader.views, default=-1) + 1)
    views = parse_views(config.views) if config.views else whole
    if config.format == "webdataset":
        exported = export_tars(reader, dataset, views, destination, console)
        if exported.num_misnamed:
            say(
                f"{exported.num_misnamed:,} images of another format are named .{exported.extension}, like "
                "the first one: datasets needs one name, and decoders go by content"
            )
    else:
        write = export_parquet if config.format == "parquet" else export_images
        write(reader, dataset, views, destination, console)
    say(f"exported views {views.start}:{views.stop} of {len(dataset):,} samples to {config.dst}")
    return 0


def import_(config: ImportConfig) -> int:
    """Make an archive from an export."""
    from teacher_cache.archive.exports.import_tars import import_tars
    from teacher_cache.archive.format.trust import trust_of
    from teacher_cache.archive.readers.read_tars import ExportReader
    from teacher_cache.program.progress import console
    from teacher_cache.storage.store import Store

    trust_of().refuse_unsigned(config.src, "an export")
    export = ExportReader(config.src)
    import_tars(export, Store(config.dst), console)
    views = f"{export.views[0]}:{export.views[-1] + 1}"
    say(f"{config.dst}: views {views}, fingerprint {export.spec.fingerprint[:12]}")
    return 0


def merge(config: MergeConfig) -> int:
    """Copy the units of several archives into one."""
    from teacher_cache.archive.format.trust import trust_of
    from teacher_cache.archive.readers.archive import ArchiveReader
    from teacher_cache.archive.readers.source import view_ranges
    from teacher_cache.archive.writers import merge as merging
    from teacher_cache.program.progress import console
    from teacher_cache.storage.store import Store

    trust = trust_of(config.key, config.manifest)
    sources = [ArchiveReader(source, trust=trust) for source in config.src]
    differ = merging.merge(sources, Store(config.dst), console)
    for name in differ:
        say(f"unit {name} is not the same everywhere; the first was kept")
    say(f"{config.dst}: views {view_ranges(ArchiveReader(config.dst).views)}")
    return 0


def inspect(config: InspectConfig) -> int:
    """Print the parameters and labels of one view."""
    from pipelines.archive.inspect_view import inspect_view

    inspection = inspect_view(config)
    if config.image is not None:
        try:
            inspection.strip.save(config.image)
        except (OSError, ValueError) as error:
            raise InputError(
                f"--image {config.image} cannot be written: {error}",
                "The picture would be lost.",
                "choose a folder that exists, and a name ending in .png",
            ) from error
    lines = []
    for name, value in inspection.values.items():
        for item in value if isinstance(value, list) else [value]:
            text = ", ".join(f"{k}={v}" for k, v in item.items()) if isinstance(item, dict) else item
            lines.append(f"{name:14} {text}")
    show(config, inspection.values, lines)
    return 0


def _recheck(config: VerifyConfig, trust: Trust, lines: list[str], signed: list[str]) -> int:
    from pipelines.archive.recheck import recheck
    from teacher_cache.program.progress import console

    found = recheck(config, trust, console)
    line = (
        f"{config.archive}: {'the labels are' if found.fits else 'the labels are NOT'} the teacher's: "
        f"of {found.views:,} views, probability error at most {found.max_error:.2g}, "
        f"mean {found.mean_error:.2g} (tolerance {found.tolerance:.2g}), top-1 agreement {found.top1:.2%}"
    )
    values = {"level": config.level, **dataclasses.asdict(found), "fits": found.fits}
    if config.key is not None:
        values["problems"] = signed
    show(config, values, [*lines, *signed, line])
    return 0 if found.fits else 1
