"""Command line `teacher-cache`. Heavy imports wait until a command runs, so that --help is quick."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pipelines.commands import archives, jobs, labelling, service, sharing
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
from pipelines.flags.service import RequestConfig, ServeConfig, TokenConfig
from pipelines.flags.sharing import CardConfig, CatalogConfig, PullConfig, PushConfig, SignConfig, ViewConfig
from teacher_cache.program.commandline import Command, run_command

COMMANDS = {
    "pack": Command(PackConfig, labelling.pack),
    "plan": Command(PlanConfig, labelling.plan),
    "extract": Command(ExtractConfig, labelling.extract),
    "submit": Command(SubmitConfig, jobs.submit),
    "status": Command(StatusConfig, archives.status),
    "logs": Command(LogsConfig, jobs.logs),
    "stop": Command(StopConfig, jobs.stop),
    "verify": Command(VerifyConfig, archives.verify),
    "repair": Command(RepairConfig, archives.repair),
    "inspect": Command(InspectConfig, archives.inspect),
    "export": Command(ExportConfig, archives.export),
    "import": Command(ImportConfig, archives.import_),
    "merge": Command(MergeConfig, archives.merge),
    "push": Command(PushConfig, sharing.push),
    "pull": Command(PullConfig, sharing.pull),
    "sign": Command(SignConfig, sharing.sign),
    "card": Command(CardConfig, sharing.card),
    "catalog": Command(CatalogConfig, sharing.catalog),
    "view": Command(ViewConfig, sharing.view),
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
