"""The flags of `teacher-cache`, a frozen dataclass per command."""

from __future__ import annotations

import dataclasses
import os
from typing import Literal

from tyro.conf import Positional

from teacher_cache.commandline import at_least, parse_kwargs, parse_views
from teacher_cache.errors import InputError


@dataclasses.dataclass(frozen=True)
class PackConfig:
    """Pack images into WebDataset tar shards with an index."""

    src: Positional[str]
    """Class folders, Hugging Face style parquet, or WebDataset tars."""
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
class ExtractConfig:
    """Label views of a packed dataset with a teacher; continues where it stopped."""

    data: str
    """A packed dataset."""
    teacher: str
    """A timm model, such as regnety_160.deit_in1k."""
    out: str
    """The archive: a new folder, or one of the same request."""
    checkpoint: str | None = None
    """The teacher's weights: a safetensors file, or a torch file of weights alone."""
    pretrained: bool = True
    """Weights from the hub, where no --checkpoint is given; --no-pretrained: seeded random ones."""
    model_kwargs: tuple[str, ...] = ()
    """name=value arguments for timm.create_model."""
    recipe: str = "deit"
    """A named recipe (deit, deit3, rrc, eval), or a YAML file."""
    img_size: int | None = None
    """Side of a view in pixels; 224, or what the recipe's file says, if not given."""
    views: str = "0:1"
    """View indices A:B, from A up to and without B."""
    topk: int = 10
    """Classes kept of each label."""
    values: Literal["q8", "float32"] = "q8"
    """How logits are stored: in eight bits each, or exactly, for research."""
    views_per_unit: int | None = None
    """Views computed and stored together; at most 32, in equal blocks, if not given."""
    extends: str | None = None
    """An archive whose labels are not computed again: of fewer views, or of the first image shards."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the forward pass: auto is bfloat16 autocast on CUDA, float32 elsewhere."""
    engine: Literal["local"] = "local"
    """What runs the units."""
    device: str = "auto"
    """Of the teacher: auto is CUDA if there is one."""
    batch_size: int = 64
    """Views in one forward pass."""
    workers: int = 0
    """Processes that render views; 0 renders in the main one."""
    json: bool = False
    """Print the result as JSON."""

    def __post_init__(self) -> None:
        at_least("--topk", self.topk, 1)
        at_least("--views-per-unit", self.views_per_unit, 1)
        at_least("--batch-size", self.batch_size, 1)
        at_least("--workers", self.workers, 0)
        parse_views(self.views)
        parse_kwargs(self.model_kwargs)


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
