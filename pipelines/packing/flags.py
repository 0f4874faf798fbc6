"""Flags of `pack`."""

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
    """Class folders, Hugging Face style parquet, or WebDataset tars; a remote source is copied here first."""
    dst: Positional[str]
    """New folder for the packed dataset."""
    shard_size: Annotated[int, Meta(ge=1)] | None = None
    """Samples in a shard; those of a packed dataset that is copied or extended, else 5000, by default."""
    seed: Annotated[int, Meta(ge=0)] | None = None
    """Seed of the shuffle, 0 by default; a packed dataset is shuffled again only where a seed is given."""
    max_side: Annotated[int | None, Meta(ge=1)] = None
    """Largest side in pixels; every image is re-encoded as JPEG, and the dataset records it."""
    quality: Annotated[int | None, Meta(ge=1, le=100)] = None
    """JPEG quality of the re-encoded images."""
    skip_corrupt: bool = False
    """Leave out images that cannot be decoded, and record them, instead of stopping with an error."""
    extends: str | None = None
    """Packed dataset to extend: its full shards are kept, and samples with its keys are not packed again."""
    split: str | None = None
    """Split to take, such as train, where names of folders, parquet files or tars show several."""
    splits: bool = True
    """Take words such as train in names for splits; --no-splits takes such folders for classes."""
    classes: str | None = None
    """File of the class names in order: text, a name a line; a JSON list; or a packed dataset."""
    unlabelled: bool = False
    """Pack images without labels, even where there are some."""
    image_column: str | None = None
    """Parquet column of the images, if no name or feature tells."""
    label_column: str | None = None
    """Parquet column of the labels, if no name or feature tells."""
    image_key: str | None = None
    """Extension of a tar's images, such as input.jpg; WebDataset's "a;b" takes the one that is there."""
    label_key: str | None = None
    """Extension of a tar's labels: cls by default, txt, or json:FIELD for a field of a JSON member."""
    in_place: bool = False
    """Index .tar or .parquet files where they lie, on a disk or in a bucket; nothing is copied."""
    shuffle: bool = True
    """Shuffle the samples; --no-shuffle keeps the source's order."""
    crops: bool = True
    """Rewrite JPEGs losslessly, so that views decode only their crop; --no-crops keeps the images' bytes."""
    workers: Annotated[int, Meta(ge=1)] = os.cpu_count() or 1
    """Threads that read and decode images."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.split is not None and not self.splits:
            raise InputError(
                f"--split {self.split} with --no-splits", "One of them would be ignored.", "give one of them"
            )
        if self.in_place and (self.max_side is not None or self.extends is not None):
            raise InputError(
                "--in-place with --max-side or --extends",
                "Images that stay where they are cannot be re-encoded or joined to shards.",
                "pack a copy, or leave these flags out",
            )
        if (self.max_side is None) != (self.quality is None):
            raise InputError(
                "one of --max-side and --quality without the other",
                "Re-encoding needs both.",
                "give both, or neither to keep the images' bytes",
            )
