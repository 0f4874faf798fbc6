"""The flags of the commands that look after archives, a frozen dataclass per command."""

from __future__ import annotations

import dataclasses
from typing import Literal

from tyro.conf import Positional

from pipelines.flags.jobs import JobFlags
from pipelines.flags.teacher import TeacherFlags
from teacher_cache.errors import InputError
from teacher_cache.program.commandline import at_least, parse_views


@dataclasses.dataclass(frozen=True)
class VerifyConfig(TeacherFlags):
    """Hold an archive against its manifest, or against its teacher; exit code 1 if anything is wrong."""

    archive: Positional[str]
    """The archive."""
    level: Literal["quick", "full", "teacher"] = "quick"
    """quick: documents, names, sizes. full: every hash, chunk and label too. teacher: asks it views again."""
    data: str | None = None
    """The packed dataset, for --level teacher."""
    num_views: int = 256
    """Views that the teacher is asked again."""
    seed: int = 0
    """Of which views."""
    json: bool = False
    """Print the result as JSON."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("--num-views", self.num_views, 1)
        at_least("--seed", self.seed, 0)
        if (self.level == "teacher") != (self.data is not None):
            raise InputError(
                f"--level {self.level} {'without' if self.data is None else 'with'} --data",
                "Only the teacher looks at images, and it must.",
                "give --data with --level teacher, and not without",
            )


@dataclasses.dataclass(frozen=True)
class RepairConfig(TeacherFlags):
    """Mend an archive: write its documents again, and compute just the damaged or missing units."""

    archive: Positional[str]
    """The archive."""
    data: str | None = None
    """The packed dataset, where units must be computed again."""
    json: bool = False
    """Print the result as JSON."""


@dataclasses.dataclass(frozen=True)
class StatusConfig(JobFlags):
    """Show which units of an archive are there, finished or not: image shards by blocks of views."""

    archive: Positional[str | None] = None
    """The archive."""
    job: str | None = None
    """A job's id, as `submit` printed it: say how that job is, instead."""
    json: bool = False
    """Print the result as JSON."""

    def __post_init__(self) -> None:
        if (self.archive is None) == (self.job is None):
            raise InputError(
                "neither an archive nor --job" if self.job is None else "an archive and --job",
                "There is nothing to show, or too much.",
                "give one of them",
            )


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Write an archive's labels as WebDataset tars with the images, or as parquet for analysis."""

    archive: Positional[str]
    """The archive."""
    dst: Positional[str]
    """New folder for the export."""
    data: str
    """The packed dataset that was labelled."""
    format: Literal["webdataset", "parquet"] = "webdataset"
    """webdataset: tars that train a student by themselves. parquet: a table per shard."""
    views: str | None = None
    """View indices A:B; all of the archive's if not given."""

    def __post_init__(self) -> None:
        if self.views is not None:
            parse_views(self.views)


@dataclasses.dataclass(frozen=True)
class ImportConfig:
    """Make an archive again of tars that `export` wrote."""

    src: Positional[str]
    """The export's folder."""
    dst: Positional[str]
    """New folder for the archive."""


@dataclasses.dataclass(frozen=True)
class MergeConfig:
    """Copy the units of archives of one fingerprint, made apart, into one archive."""

    dst: Positional[str]
    """The archive they are copied into: a new folder, or one of the same fingerprint."""
    src: Positional[tuple[str, ...]]
    """The archives."""

    def __post_init__(self) -> None:
        if not self.src:
            raise InputError("no archive to merge", "There is nothing to copy.", "give one or more after DST")
