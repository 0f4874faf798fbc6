"""Flags of the commands that check, repair, convert and inspect archives, a frozen dataclass per command."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Literal

from msgspec import Meta
from tyro.conf import Positional

from pipelines.extraction.flags import ArchiveTeacherFlags
from pipelines.jobs.flags import JobFlags
from teacher_cache.errors import InputError
from teacher_cache.program.flags import Check, ImagesFlag, JsonFlag, KeyFlags, parse_views


@dataclasses.dataclass(frozen=True)
class VerifyConfig(KeyFlags, ArchiveTeacherFlags, JsonFlag):
    """Check an archive against its manifest, or against its teacher; exit code 1 if anything is wrong."""

    archive: Positional[str]
    """Archive to check."""
    level: Literal["quick", "full", "teacher"] = "quick"
    """Checks: quick (documents, names, sizes), full (also hashes, chunks, labels), teacher (labels again)."""
    data: str | None = None
    """Packed dataset that was labelled, for --level teacher."""
    num_views: Annotated[int, Meta(ge=1)] = 256
    """Views that the teacher labels again."""
    seed: Annotated[int, Meta(ge=0)] = 0
    """Seed of the random choice of the views to label again."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.level == "teacher") != (self.data is not None):
            raise InputError(
                f"--level {self.level} {'without' if self.data is None else 'with'} --data",
                "Only --level teacher reads images, and it cannot work without them.",
                "give --data if the level is teacher, and only then",
            )


@dataclasses.dataclass(frozen=True)
class RepairConfig(ArchiveTeacherFlags, JsonFlag):
    """Repair an archive: rewrite its documents, and compute only damaged or missing units again."""

    archive: Positional[str]
    """Archive to repair."""
    data: str | None = None
    """Packed dataset that was labelled; needed if units must be computed again."""


@dataclasses.dataclass(frozen=True)
class StatusConfig(JobFlags, JsonFlag):
    """Show the units that an archive has, finished or not: image shards by blocks of views."""

    archive: Positional[str | None] = None
    """Archive to show."""
    job: str | None = None
    """Id of a job, as `submit` printed it; show that job's state instead."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.archive is None) == (self.job is None):
            raise InputError(
                "neither an archive nor --job" if self.job is None else "an archive and --job",
                "`status` shows either an archive or a job.",
                "give exactly one of ARCHIVE and --job",
            )


@dataclasses.dataclass(frozen=True)
class ExportConfig(KeyFlags, ImagesFlag):
    """Write an archive's labels as WebDataset tars with the images, or as parquet for analysis."""

    archive: Positional[str]
    """Archive to export."""
    dst: Positional[str]
    """New folder for the export."""
    data: str
    """Packed dataset that was labelled."""
    format: Literal["webdataset", "parquet", "parquet-images"] = "webdataset"
    """Format of the export. webdataset: tars that suffice to train a student; parquet: a row per view, no
    images; parquet-images: a row per image with all its labels, for Hugging Face datasets."""
    views: Annotated[str | None, Check(parse_views)] = None
    """View indices A:B; by default all of the archive's."""


@dataclasses.dataclass(frozen=True)
class ImportConfig:
    """Make an archive from tars that `export` wrote."""

    src: Positional[str]
    """Folder of the export."""
    dst: Positional[str]
    """New folder for the archive."""


@dataclasses.dataclass(frozen=True)
class MergeConfig(KeyFlags):
    """Copy the units of several archives with the same fingerprint into one archive."""

    dst: Positional[str]
    """Archive to copy into: a new folder, or an archive of the same fingerprint."""
    src: Positional[tuple[str, ...]]
    """Archives to copy from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.src:
            raise InputError("no archive to merge", "There is nothing to copy.", "give one or more after DST")


@dataclasses.dataclass(frozen=True)
class InspectConfig(ImagesFlag, JsonFlag):
    """Print every parameter of a view, and draw its crop box, the view, its mixing partner, and the mix."""

    archive: Positional[str | None] = None
    """Archive with the recipe and the labels to show; may be left out, to use --recipe."""
    data: str = ""
    """Packed dataset of the image."""
    row: Annotated[int | None, Meta(ge=0)] = None
    """Row of the sample; the first row if neither --row nor --key is given."""
    key: str | None = None
    """Key of the sample."""
    view: Annotated[int, Meta(ge=0)] = 0
    """Index of the view."""
    recipe: str | None = None
    """Name of a recipe (deit, deit3, rrc, eval) or a YAML file, if no archive is given; deit by default."""
    img_size: Annotated[int | None, Meta(ge=1)] = None
    """Side of a view in pixels, where no archive is given; 224, or the recipe file's, by default."""
    image: str | None = None
    """File for the picture, such as view.png."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.row is not None and self.key is not None:
            raise InputError("--row and --key", "Only one sample is shown.", "give one of the two")
        if not self.data:
            raise InputError("--data is missing", "The view needs an image.", "give a packed dataset")
        if self.archive is not None and (self.recipe is not None or self.img_size is not None):
            raise InputError(
                "--recipe or --img-size with an archive",
                "The recipe and the size of views are those of the archive.",
                "remove these flags, or the archive",
            )
