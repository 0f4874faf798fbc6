"""The flags of every command that asks a teacher: where its weights are, and how it is run."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import tyro
from msgspec import Meta

from teacher_cache.program.flags import LABELS, PATH, CacheFlags


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherFlags(CacheFlags):
    """Where a teacher's weights are, and how it is run, which changes labels' last bits at most."""

    checkpoint: Annotated[str | None, PATH, LABELS] = None
    """The teacher's weights, where they are not the hub's: a safetensors file, or a torch file of weights."""
    pretrained: Annotated[bool, LABELS] = True
    """Weights from the hub, where no --checkpoint is given; --no-pretrained: seeded random ones."""
    device: str = "auto"
    """Of the teacher: auto is CUDA if there is one."""
    batch_size: Annotated[int, Meta(ge=1)] = 64
    """Views in one forward pass; the same gives the same bytes on the same kind of device."""
    workers: Annotated[int, Meta(ge=0), tyro.conf.arg(aliases=["--render-workers"])] = 0
    """Processes that render views for a teacher; 0 renders in the teacher's own."""
    channels_last: bool = True
    """Lay the teacher's weights out as the pixels lie."""
    compile: bool = False
    """Compile the teacher with torch.compile."""
