"""Run the commands that share archives, and print what they did."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipelines.sharing.flags import (
    CardConfig,
    CatalogConfig,
    CopyFlags,
    PullConfig,
    PushConfig,
    SignConfig,
)
from teacher_cache.program.commandline import packages_of, show
from teacher_cache.program.flags import parse_shards, parse_views

if TYPE_CHECKING:
    from teacher_cache.archive.format.trust import Trust


def push(config: PushConfig) -> int:
    """Copy an archive to where others can fetch it."""
    from teacher_cache.archive.format.trust import ANY

    return _copy(config, config.archive, config.url, "push", ANY)


def pull(config: PullConfig) -> int:
    """Fetch an archive."""
    from teacher_cache.archive.format.trust import trust_of
    from teacher_cache.program.say import say_on_stderr
    from teacher_cache.sharing.client import Client, request_of

    is_request = request_of(config.url) is not None
    url = Client().labels(config.url, follow=False, say=say_on_stderr) if is_request else config.url
    return _copy(config, url, config.archive, "pull", trust_of(config.key, config.manifest))


def _copy(config: CopyFlags, source: str, destination: str, what: str, trust: Trust) -> int:
    from pipelines.sharing.share import ShareRequest, share
    from teacher_cache.program.progress import console
    from teacher_cache.storage.store import Store

    request = ShareRequest(
        source=Store(source),
        destination=Store(destination),
        views=parse_views(config.views) if config.views else None,
        shards=parse_shards(config.shards) if config.shards else None,
        classes=config.classes,
        workers=config.workers,
        recheck=config.recheck,
        what=what,
        trust=trust,
    )
    report = share(request, console)
    show(config, report, report.lines)
    return 0


def sign(config: SignConfig) -> int:
    """Sign an archive."""
    from teacher_cache.program.progress import console

    with packages_of("share", "sign"):
        from pipelines.sharing.describe import sign_archive

    statement = sign_archive(config, console)
    show(config, statement, [f"{config.archive}: {statement}"])
    return 0


def card(config: CardConfig) -> int:
    """Write a card beside an archive."""
    from teacher_cache.program.progress import console

    with packages_of("share", "card"):
        from pipelines.sharing.describe import write_card

    names = write_card(config, console)
    show(config, names, [f"{config.archive}: wrote {', '.join(names)}"])
    return 0


def catalog(config: CatalogConfig) -> int:
    """Write the catalog of a folder or bucket; the exit code is 1 if an archive was left out."""
    from teacher_cache.program.progress import console
    from teacher_cache.storage.store import Store

    with packages_of("share", "catalog"):
        from teacher_cache.sharing.catalog import put_catalog

    found = put_catalog(Store(config.root), console)
    lines = [f"left out: {path}: {reason}" for path, reason in found.left_out]
    lines.append(f"{config.root}: {len(found.archives):,} archives in catalog.json and index.html")
    show(config, found, lines)
    return 1 if found.left_out else 0
