"""Run `view`: serve pages of an archive, or write them."""

from __future__ import annotations

from pipelines.explorer.flags import ViewConfig
from teacher_cache.program.commandline import packages_of
from teacher_cache.program.say import say


def view(config: ViewConfig) -> int:
    """Serve the pages of an archive, or write them to a folder."""
    from teacher_cache.program.progress import console

    with packages_of("share", "view"):
        from pipelines.explorer import run

    if config.static is None:
        run.serve(config)
    else:
        say(f"{config.static}: {run.write_pages(config, console):,} pages; open {config.static}/index.html")
    return 0
