"""The flags of `pack` and `inspect`, a frozen dataclass per command."""

from __future__ import annotations

import dataclasses
import os
from typing import Annotated

from msgspec import Meta
from tyro.conf import Positional

from teacher_cache.errors import InputError
from teacher_cache.program.flags import Flags, JsonFlag


@dataclasses.dataclass(frozen=True)
class PackConfig(Flags, JsonFlag):
    """Pack images into WebDataset tar shards with an index."""

    src: Positional[str]
    """Class folders, Hugging Face style parquet, or WebDataset tars; a remote one is copied here first."""
    dst: Positional[str]
    """New folder for the packed dataset."""
    shard_size: Annotated[int, Meta(ge=1)] = 5000
    """Samples in a shard."""
    seed: Annotated[int, Meta(ge=0)] = 0
    """Of the shuffle."""
    max_side: Annotated[int | None, Meta(ge=1)] = None
    """Re-encode every image as JPEG, no side above this many pixels. A new dataset, recorded as such."""
    quality: Annotated[int | None, Meta(ge=1, le=100)] = None
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
    workers: Annotated[int, Meta(ge=1)] = os.cpu_count() or 1
    """Threads that read and decode."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.max_side is None) != (self.quality is None):
            raise InputError(
                "one of --max-side and --quality without the other",
                "Re-encoding needs both.",
                "give both, or neither to keep the images' bytes",
            )


@dataclasses.dataclass(frozen=True)
class InspectConfig(Flags, JsonFlag):
    """Print every parameter of a view, and write its picture: crop box, view, partner, the two mixed."""

    archive: Positional[str | None] = None
    """An archive, whose recipe and labels are shown; or none, with --recipe."""
    data: str = ""
    """A packed dataset."""
    row: Annotated[int | None, Meta(ge=0)] = None
    """Which sample, by its row; the first if neither --row nor --key is given."""
    key: str | None = None
    """Which sample, by its key."""
    view: Annotated[int, Meta(ge=0)] = 0
    """Which view of it."""
    recipe: str | None = None
    """A named recipe (deit, deit3, rrc, eval) or a YAML file, where no archive is given; deit if neither."""
    img_size: Annotated[int | None, Meta(ge=1)] = None
    """Side of a view in pixels, where no archive is given; 224, or what the recipe's file says."""
    image: str | None = None
    """Write the picture to this file, such as view.png."""

    def __post_init__(self) -> None:
        super().__post_init__()
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
