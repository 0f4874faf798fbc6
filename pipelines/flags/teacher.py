"""Flags of every command that runs a teacher."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import tyro
from msgspec import Meta

from teacher_cache.program.flags import LABELS, PATH, CacheFlags, Check, parse_kwargs


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherFlags(CacheFlags):
    """Weights of a teacher, and settings of its forward pass, which change labels' last bits at most."""

    checkpoint: Annotated[str | None, PATH, LABELS] = None
    """File of the teacher's weights, instead of the hub's: safetensors, or a torch file of weights alone."""
    pretrained: Annotated[bool, LABELS] = True
    """Load weights from the hub if --checkpoint is absent; --no-pretrained takes seeded random weights."""
    device: str = "auto"
    """Device of the teacher; auto takes CUDA where there is one."""
    batch_size: Annotated[int, Meta(ge=1)] = 64
    """Views in one forward pass; equal values give equal bytes on the same kind of device."""
    workers: Annotated[int, Meta(ge=0), tyro.conf.arg(aliases=["--render-workers"])] = 0
    """Processes that render views for a teacher; 0 renders in the teacher's process."""
    prompts: Annotated[str | None, PATH, LABELS] = None
    """Prompts of the classes, for a teacher clip:MODEL/TAG: lines with {} for the class, or JSON lists."""
    class_map: Annotated[str | None, PATH, LABELS] = None
    """JSON or YAML file with the teacher's classes of each of the dataset's: one, or several to be summed."""
    model_kwargs: Annotated[tuple[str, ...], Check(parse_kwargs), LABELS] = ()
    """Arguments name=value for timm.create_model, or for the factory of a teacher python:MODULE:FACTORY."""
    channels_last: bool = True
    """Store the teacher's weights in the pixels' channels-last layout."""
    compile: bool = False
    """Compile the teacher with torch.compile."""
