"""The command line `teacher-cache`. Heavy imports wait until a command runs, so that --help is quick."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence

from pipelines.config import ExtractConfig, InspectConfig, PackConfig, VerifyConfig
from teacher_cache.commandline import Command, run_command
from teacher_cache.errors import InputError


def _pack(config: PackConfig) -> int:
    from teacher_cache.dataset.pack import Reencode, pack
    from teacher_cache.dataset.sources import open_source
    from teacher_cache.progress import console
    from teacher_cache.store import Store

    reencode = Reencode(config.max_side, config.quality) if config.max_side and config.quality else None
    info = pack(
        open_source(
            config.src,
            split=config.split,
            image_column=config.image_column,
            label_column=config.label_column,
        ),
        Store(config.dst),
        shard_size=config.shard_size,
        seed=config.seed,
        reencode=reencode,
        skip_corrupt=config.skip_corrupt,
        workers=config.workers,
        track=console,
    )
    skipped = info.source["skipped"]
    if config.json:
        print(json.dumps({"sha256": info.sha256, "samples": info.num_samples, "skipped": skipped}))
        return 0
    print(
        f"packed {info.num_samples:,} images of {len(info.classes):,} classes "
        f"into {len(info.shards):,} shards: dataset {info.sha256[:12]}"
    )
    for sample in skipped:
        print(f"left out {sample['key']}: {sample['reason']}")
    return 0


def _extract(config: ExtractConfig) -> int:
    from pipelines.extract import extract
    from teacher_cache.progress import console

    report = extract(config, console)
    if config.json:
        print(json.dumps(dataclasses.asdict(report)))
        return 0
    if report.units:
        rate = report.views / max(report.seconds, 1e-9)
        print(f"labelled {report.views:,} views in {report.seconds:,.1f} s, {rate:,.1f} views/s")
    else:
        print("every label asked for is there already; nothing was computed")
    print(
        f"{config.out}: {report.labels:,} labels, {report.label_bytes / report.labels:.1f} bytes each, "
        f"fingerprint {report.fingerprint[:12]}"
    )
    return 0


def _verify(config: VerifyConfig) -> int:
    from teacher_cache.archive.verify import verify
    from teacher_cache.progress import console

    problems = verify(config.archive, config.level, console)
    if config.json:
        print(json.dumps({"level": config.level, "problems": problems}))
    else:
        print("\n".join([*problems, f"{config.archive}: {len(problems) or 'no'} problems ({config.level})"]))
    return 1 if problems else 0


def _inspect(config: InspectConfig) -> int:
    from pipelines.inspect_view import inspect_view

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
    if config.json:
        print(json.dumps(inspection.values))
        return 0
    for name, value in inspection.values.items():
        several = value if isinstance(value, list) else [value]
        for item in several:
            text = ", ".join(f"{k}={v}" for k, v in item.items()) if isinstance(item, dict) else item
            print(f"{name:14} {text}")
    return 0


COMMANDS = {
    "pack": Command(PackConfig, _pack),
    "extract": Command(ExtractConfig, _extract),
    "verify": Command(VerifyConfig, _verify),
    "inspect": Command(InspectConfig, _inspect),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `teacher-cache` and return its exit code."""
    summary = "Teacher labels for knowledge distillation: computed once, stored, shared, replayed exactly."
    return run_command("teacher-cache", summary, COMMANDS, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
