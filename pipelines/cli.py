"""Command line `teacher-cache`. Heavy imports wait until a command runs, so that --help is quick."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence

from pipelines.flags.archives import (
    ExportConfig,
    ImportConfig,
    MergeConfig,
    RepairConfig,
    StatusConfig,
    VerifyConfig,
)
from pipelines.flags.extract import ExtractConfig, PlanConfig
from pipelines.flags.images import InspectConfig, PackConfig
from pipelines.flags.jobs import LogsConfig, StopConfig, SubmitConfig
from teacher_cache.errors import InputError
from teacher_cache.program.commandline import Command, run_command, show
from teacher_cache.program.flags import parse_views


def _pack(config: PackConfig) -> int:
    from pipelines.packing.run import run_pack
    from teacher_cache.program.progress import console

    report = run_pack(config, console)
    show(config, report, report.lines)
    return 0


def _extract(config: ExtractConfig) -> int:
    from pipelines.extraction.extract import extract
    from teacher_cache.program.progress import console

    report = extract(config, console)
    lines = ["every label asked for is there already; nothing was computed"]
    if report.run is not None:
        rate = report.views / max(report.seconds, 1e-9)
        lines = [
            *([str(report.agreement)] if report.agreement else []),
            f"labelled {report.views:,} views in {report.seconds:,.1f} s, {rate:,.1f} views/s",
            f"events and report: {report.run}",
        ]
    if report.labels:
        lines.append(
            f"{config.out}: {report.labels:,} labels, {report.label_bytes / report.labels:.1f} bytes each, "
            f"fingerprint {report.fingerprint[:12]}"
        )
    show(config, report, lines)
    if config.json or not report.quarantined:
        return 1 if report.quarantined else 0
    for name, reason in report.quarantined.items():
        print(f"unit {name} was given up: {reason}", file=sys.stderr)
    print(
        f"{config.out} is not finished: mend what the lines above name, then run the same command again",
        file=sys.stderr,
    )
    return 1


def _plan(config: PlanConfig) -> int:
    from pipelines.extraction.extract import plan

    found = plan(config)
    if found is None:
        show(config, None, ["every label asked for is there already; there is nothing to do"])
        return 0
    lines = [
        f"units     {found.units:,} to do, {found.units_done:,} done",
        f"views     {found.views:,}, and {found.calibration_views:,} to calibrate on",
        f"objects   {found.objects:,}, {found.label_bytes:,} bytes of labels",
        f"rate      {found.views_per_s:,.1f} views/s a teacher, {found.render_share:.0%} waiting for views",
        f"teacher   {found.gpu_hours:,.3g} hours in all, {found.hours:,.3g} with {found.num_workers} at once",
        *([f"cost      {found.cost:,.2f}"] if found.cost is not None else []),
        *([f"classes   on a sample, {found.agreement}"] if found.agreement else []),
        f"pays off  after {found.break_even_runs:,.3g} student runs of {found.epochs:,} epochs, "
        f"each against a live teacher",
    ]
    show(config, found, lines)
    return 0


def _verify(config: VerifyConfig) -> int:
    from teacher_cache.archive.verify import verify
    from teacher_cache.program.progress import console

    if config.level == "teacher":
        return _recheck(config)
    problems = [problem.what for problem in verify(config.archive, config.level, console)]
    lines = [*problems, f"{config.archive}: {len(problems) or 'no'} problems ({config.level})"]
    show(config, {"level": config.level, "problems": problems}, lines)
    return 1 if problems else 0


def _recheck(config: VerifyConfig) -> int:
    from pipelines.archives.recheck import recheck
    from teacher_cache.program.progress import console

    found = recheck(config, console)
    line = (
        f"{config.archive}: {'the labels are' if found.fits else 'the labels are NOT'} the teacher's: "
        f"of {found.views:,} views, probability error at most {found.max_error:.2g}, "
        f"mean {found.mean_error:.2g} (tolerance {found.tolerance:.2g}), top-1 agreement {found.top1:.2%}"
    )
    show(config, {"level": config.level, **dataclasses.asdict(found), "fits": found.fits}, [line])
    return 0 if found.fits else 1


def _repair(config: RepairConfig) -> int:
    from pipelines.archives.repair import repair
    from teacher_cache.program.progress import console

    report = repair(config, console)
    lines = [f"found: {line}" for line in report.found]
    for name in report.computed:
        lines.append(f"computed again: {name}" + (", to other bytes" if name in report.changed else ""))
    lines += [f"left: {line}" for line in report.left]
    lines.append(
        f"{config.archive}: {len(report.found) or 'no'} problems found, {len(report.left) or 'none'} left"
    )
    show(config, report, lines)
    return 1 if report.left else 0


def _status(config: StatusConfig) -> int:
    if config.archive is None:
        return _job_status(config, str(config.job))
    from rich.console import Console

    from pipelines.archives.status import picture, status

    found = status(config.archive)
    if config.json:
        print(json.dumps(dataclasses.asdict(found)))
        return 0
    console = Console(highlight=False)
    for line in picture(found, console.width):
        console.print(line)
    if found.agreement is not None:
        console.print(str(found.agreement))
    state = "finished" if found.finished else "not finished: run the same extract again"
    console.print(
        f"{config.archive}: {state}, {found.label_bytes:,} bytes, fingerprint {found.fingerprint[:12]}"
    )
    return 0


def _job_status(config: StatusConfig, job: str) -> int:
    from pipelines.jobs import job_status

    state = job_status(config, job)
    show(config, {"job": job, "state": state}, [f"{job}: {state}"])
    return 0


def _submit(config: SubmitConfig) -> int:
    from pipelines.jobs import submit

    found = submit(config)
    show(config, found, [f"{'submitted' if found.is_new else 'attached to'} {found.job}: {found.state}"])
    return 0


def _logs(config: LogsConfig) -> int:
    from pipelines.jobs import is_success, logs

    state = logs(config, lambda text: print(text, end="", flush=True))
    if not config.follow:
        return 0
    print(f"{config.job}: {state}", file=sys.stderr)
    return 0 if is_success(state) else 1


def _stop(config: StopConfig) -> int:
    from pipelines.jobs import stop

    print(f"{config.job}: {stop(config)}")
    return 0


def _export(config: ExportConfig) -> int:
    from teacher_cache.archive.export_parquet import export_images, export_parquet
    from teacher_cache.archive.export_tars import export_tars
    from teacher_cache.archive.read import ArchiveReader
    from teacher_cache.dataset.shards import PackedDataset
    from teacher_cache.program.progress import console
    from teacher_cache.storage.store import Store

    reader, dataset, destination = (
        ArchiveReader(config.archive),
        PackedDataset(config.data),
        Store(config.dst),
    )
    views = parse_views(config.views) if config.views else range(reader.views[0], reader.views[-1] + 1)
    if config.format == "webdataset":
        exported = export_tars(reader, dataset, views, destination, console)
        if exported.num_misnamed:
            print(
                f"{exported.num_misnamed:,} images of another format are named .{exported.extension}, like "
                "the first one: datasets needs one name, and decoders go by content"
            )
    else:
        write = export_parquet if config.format == "parquet" else export_images
        write(reader, dataset, views, destination, console)
    print(f"exported views {views.start}:{views.stop} of {len(dataset):,} samples to {config.dst}")
    return 0


def _import(config: ImportConfig) -> int:
    from teacher_cache.archive.import_tars import import_tars
    from teacher_cache.archive.read_tars import ExportReader
    from teacher_cache.program.progress import console
    from teacher_cache.storage.store import Store

    export = ExportReader(config.src)
    import_tars(export, Store(config.dst), console)
    views = f"{export.views[0]}:{export.views[-1] + 1}"
    print(f"{config.dst}: views {views}, fingerprint {export.spec.fingerprint[:12]}")
    return 0


def _merge(config: MergeConfig) -> int:
    from teacher_cache.archive.merge import merge
    from teacher_cache.archive.read import ArchiveReader
    from teacher_cache.archive.source import view_ranges
    from teacher_cache.program.progress import console
    from teacher_cache.storage.store import Store

    differ = merge([ArchiveReader(source) for source in config.src], Store(config.dst), console)
    for name in differ:
        print(f"unit {name} is not the same everywhere; the first was kept")
    print(f"{config.dst}: views {view_ranges(ArchiveReader(config.dst).views)}")
    return 0


def _inspect(config: InspectConfig) -> int:
    from pipelines.archives.inspect_view import inspect_view

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


COMMANDS = {
    "pack": Command(PackConfig, _pack),
    "plan": Command(PlanConfig, _plan),
    "extract": Command(ExtractConfig, _extract),
    "submit": Command(SubmitConfig, _submit),
    "status": Command(StatusConfig, _status),
    "logs": Command(LogsConfig, _logs),
    "stop": Command(StopConfig, _stop),
    "verify": Command(VerifyConfig, _verify),
    "repair": Command(RepairConfig, _repair),
    "inspect": Command(InspectConfig, _inspect),
    "export": Command(ExportConfig, _export),
    "import": Command(ImportConfig, _import),
    "merge": Command(MergeConfig, _merge),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `teacher-cache` and return its exit code."""
    summary = "Teacher labels for knowledge distillation: computed once, stored, shared, replayed exactly."
    return run_command("teacher-cache", summary, COMMANDS, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
