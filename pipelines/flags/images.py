"""The flags of `pack` and `inspect`, a frozen dataclass per command."""

from __future__ import annotations

import dataclasses
import os

from tyro.conf import Positional

from teacher_cache.errors import InputError
from teacher_cache.program.commandline import at_least


@dataclasses.dataclass(frozen=True)
class PackConfig:
    """Pack images into WebDataset tar shards with an index."""

    src: Positional[str]
    """Class folders, Hugging Face style parquet, or WebDataset tars; a remote one is copied here first."""
    dst: Positional[str]
    """New folder for the packed dataset."""
    shard_size: int = 5000
    """Samples in a shard."""
    seed: int = 0
    """Of the shuffle."""
    max_side: int | None = None
    """Re-encode every image as JPEG, no side above this many pixels. A new dataset, recorded as such."""
    quality: int | None = None
    """JPEG quality of the re-encoded images."""
    skip_corrupt: bool = False
    """Leave out images that cannot be decoded, and record them, instead of refusing them."""
    extends: str | None = None
    """A packed dataset whose full shards are kept; samples whose keys it has are not packed again."""
    split: str | None = None
    """Which files to take, where the names of parquet files or tars tell several splits: train, val, test."""
    image_column: str | None = None
    """Parquet column of the images, if its type does not tell."""
    label_column: str | None = None
    """Parquet column of the labels, if its type does not tell."""
    workers: int = os.cpu_count() or 1
    """Threads that read and decode."""
    json: bool = False
    """Print the result as JSON."""

    def __post_init__(self) -> None:
        at_least("--shard-size", self.shard_size, 1)
        at_least("--max-side", self.max_side, 1)
        at_least("--seed", self.seed, 0)
        at_least("--workers", self.workers, 1)
        if (self.max_side is None) != (self.quality is None):
            raise InputError(
                "one of --max-side and --quality without the other",
                "Re-encoding needs both.",
                "give both, or neither to keep the images' bytes",
            )
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise InputError(
                f"--quality {self.quality}", "JPEG knows 1 to 100.", "choose one of these, such as 90"
            )


@dataclasses.dataclass(frozen=True)
class InspectConfig:
    """Print every parameter of a view, and write its picture: crop box, view, partner, the two mixed."""

    archive: Positional[str | None] = None
    """An archive, whose recipe and labels are shown; or none, with --recipe."""
    data: str = ""
    """A packed dataset."""
    row: int | None = None
    """Which sample, by its row; the first if neither --row nor --key is given."""
    key: str | None = None
    """Which sample, by its key."""
    view: int = 0
    """Which view of it."""
    recipe: str | None = None
    """A named recipe (deit, deit3, rrc, eval) or a YAML file, where no archive is given; deit if neither."""
    img_size: int | None = None
    """Side of a view in pixels, where no archive is given; 224, or what the recipe's file says."""
    image: str | None = None
    """Write the picture to this file, such as view.png."""
    json: bool = False
    """Print the result as JSON."""

    def __post_init__(self) -> None:
        at_least("--row", self.row, 0)
        at_least("--view", self.view, 0)
        if self.row is not None and self.key is not None:
            raise InputError("--row and --key", "They name two samples.", "give one of them")
        if not self.data:
            raise InputError("--data is missing", "There is no image to look at.", "give a packed dataset")
        if self.archive is not None and (self.recipe is not None or self.img_size is not None):
            raise InputError(
                "--recipe or --img-size with an archive",
                "The archive brings the recipe whose views it labels, at their size.",
                "leave them out",
            )
