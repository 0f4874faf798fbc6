"""Run the commands that share archives, and print what they did."""

from __future__ import annotations

from pipelines.flags.sharing import CopyFlags, PullConfig, PushConfig
from teacher_cache.program.commandline import show


def push(config: PushConfig) -> int:
    """Copy an archive to where others can fetch it."""
    return _copy(config, config.archive, config.url, "push")


def pull(config: PullConfig) -> int:
    """Fetch an archive."""
    return _copy(config, config.url, config.archive, "pull")


def _copy(config: CopyFlags, source: str, destination: str, what: str) -> int:
    from pipelines.archives.share import share
    from teacher_cache.program.progress import console

    report = share(config, source, destination, what, console)
    show(config, report, report.lines)
    return 0
