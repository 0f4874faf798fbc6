"""Run `pack`, and print what it did."""

from __future__ import annotations

from pipelines.packing.flags import PackConfig
from teacher_cache.program.commandline import show


def pack(config: PackConfig) -> int:
    """Pack a dataset."""
    from pipelines.packing.run import run_pack
    from teacher_cache.program.progress import console

    report = run_pack(config, console)
    show(config, report, report.lines)
    return 0
