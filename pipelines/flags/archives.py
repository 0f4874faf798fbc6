"""The flags of the commands that look after archives, a frozen dataclass per command."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from msgspec import Meta
from tyro.conf import Positional

from pipelines.flags.jobs import JobFlags
from pipelines.flags.teacher import TeacherFlags
from teacher_cache.errors import InputError
from teacher_cache.program.flags import Check, Flags, JsonFlag, parse_views


@dataclasses.dataclass(frozen=True)
class VerifyConfig(TeacherFlags, JsonFlag):
    """Hold an archive against its manifest, or against its teacher; exit code 1 if anything is wrong."""

    archive: Positional[str]
    """The archive."""
    level: Literal["quick", "full", "teacher"] = "quick"
    """quick: documents, names, sizes. full: every hash, chunk and label too. teacher: asks it views again."""
    data: str | None = None
    """The packed dataset, for --level teacher."""
    num_views: Annotated[int, Meta(ge=1)] = 256
    """Views that the teacher is asked again."""
    seed: Annotated[int, Meta(ge=0)] = 0
    """Of which views."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.level == "teacher") != (self.data is not None):
            raise InputError(
                f"--level {self.level} {'without' if self.data is None else 'with'} --data",
                "Only the teacher looks at images, and it must.",
                "give --data with --level teacher, and not without",
            )


@dataclasses.dataclass(frozen=True)
class RepairConfig(TeacherFlags, JsonFlag):
    """Mend an archive: write its documents again, and compute just the damaged or missing units."""

    archive: Positional[str]
    """The archive."""
    data: str | None = None
    """The packed dataset, where units must be computed again."""


@dataclasses.dataclass(frozen=True)
class StatusConfig(JobFlags, JsonFlag):
    """Show which units of an archive are there, finished or not: image shards by blocks of views."""

    archive: Positional[str | None] = None
    """The archive."""
    job: str | None = None
    """A job's id, as `submit` printed it: say how that job is, instead."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.archive is None) == (self.job is None):
            raise InputError(
                "neither an archive nor --job" if self.job is None else "an archive and --job",
                "There is nothing to show, or too much.",
                "give one of them",
            )


@dataclasses.dataclass(frozen=True)
class ExportConfig(Flags):
    """Write an archive's labels as WebDataset tars with the images, or as parquet for analysis."""

    archive: Positional[str]
    """The archive."""
    dst: Positional[str]
    """New folder for the export."""
    data: str
    """The packed dataset that was labelled."""
    format: Literal["webdataset", "parquet"] = "webdataset"
    """webdataset: tars that train a student by themselves. parquet: a table per shard."""
    views: Annotated[str | None, Check(parse_views)] = None
    """View indices A:B; all of the archive's if not given."""


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
