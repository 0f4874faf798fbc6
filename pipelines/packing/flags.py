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
    """Samples in a shard; by default as in the packed dataset that is copied or extended, else 5000."""
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
    """Read names such as train as splits; --no-splits reads folders with such names as classes."""
    classes: str | None = None
    """File of the class names in order: text, a name a line; a JSON list; or a packed dataset."""
    labels: str | None = None
    """Table of labels of images in folders: CSV, TSV or JSON; "folders" takes the folders' names instead."""
    unlabelled: bool = False
    """Pack images without labels, even where there are some."""
    image_column: str | None = None
    """Parquet column of the images; needed if column names and features do not identify it."""
    label_column: str | None = None
    """Parquet or table column of the labels; needed if column names and features do not identify it."""
    image_key: str | None = None
    """Extension of a tar's images, such as input.jpg; "a;b", as in WebDataset, means a or b."""
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
                f"--split {self.split} with --no-splits", "One flag would be ignored.", "give only one"
            )
        if self.in_place and (self.max_side is not None or self.extends is not None):
            raise InputError(
                "--in-place with --max-side or --extends",
                "Images that are indexed in place cannot be re-encoded, or added to a packed dataset.",
                "omit --in-place to pack a copy, or omit the other flags",
            )
        if self.unlabelled and (self.labels is not None or self.label_column is not None):
            raise InputError(
                "--unlabelled with --labels or --label-column", "One flag would be ignored.", "give only one"
            )
        if (self.max_side is None) != (self.quality is None):
            raise InputError(
                "one of --max-side and --quality without the other",
                "Re-encoding needs both.",
                "give both, or neither to keep the images' bytes",
            )
