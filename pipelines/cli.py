"""Command line `teacher-cache`. Heavy imports wait until a command runs, so that --help is quick."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pipelines.archive import command as archive
from pipelines.archive.flags import (
    ExportConfig,
    ImportConfig,
    InspectConfig,
    MergeConfig,
    RepairConfig,
    StatusConfig,
    VerifyConfig,
)
from pipelines.explorer import command as explorer
from pipelines.explorer.flags import ViewConfig
from pipelines.extraction import command as extraction
from pipelines.extraction.flags import ExtractConfig, PlanConfig
from pipelines.jobs import command as jobs
from pipelines.jobs.flags import LogsConfig, StopConfig, SubmitConfig
from pipelines.packing import command as packing
from pipelines.packing.flags import PackConfig
from pipelines.service import command as service
from pipelines.service.flags import RequestConfig, ServeConfig, TokenConfig
from pipelines.sharing import command as sharing
from pipelines.sharing.flags import CardConfig, CatalogConfig, PullConfig, PushConfig, SignConfig
from teacher_cache.program.commandline import Command, run_command

COMMANDS = {
    "pack": Command(PackConfig, packing.pack),
    "plan": Command(PlanConfig, extraction.plan),
    "extract": Command(ExtractConfig, extraction.extract),
    "submit": Command(SubmitConfig, jobs.submit),
    "status": Command(StatusConfig, archive.status),
    "logs": Command(LogsConfig, jobs.logs),
    "stop": Command(StopConfig, jobs.stop),
    "verify": Command(VerifyConfig, archive.verify),
    "repair": Command(RepairConfig, archive.repair),
    "inspect": Command(InspectConfig, archive.inspect),
    "export": Command(ExportConfig, archive.export),
    "import": Command(ImportConfig, archive.import_),
    "merge": Command(MergeConfig, archive.merge),
    "push": Command(PushConfig, sharing.push),
    "pull": Command(PullConfig, sharing.pull),
    "sign": Command(SignConfig, sharing.sign),
    "card": Command(CardConfig, sharing.card),
    "catalog": Command(CatalogConfig, sharing.catalog),
    "view": Command(ViewConfig, explorer.view),
    "serve": Command(ServeConfig, service.serve, has_own_config=True),
    "token": Command(TokenConfig, service.token, has_own_config=True),
    "request": Command(RequestConfig, service.request),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `teacher-cache` and return its exit code."""
    summary = "Teacher labels for knowledge distillation: computed once, stored, shared, replayed exactly."
    return run_command("teacher-cache", summary, COMMANDS, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
