"""The flags of every command that asks a teacher: where its weights are, and how it is run."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import tyro

from teacher_cache.program.commandline import at_least
from teacher_cache.storage.cache import CacheFlags


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherFlags(CacheFlags):
    """Where a teacher's weights are, and how it is run, which changes labels' last bits at most."""

    checkpoint: str | None = None
    """The teacher's weights, where they are not the hub's: a safetensors file, or a torch file of weights."""
    pretrained: bool = True
    """Weights from the hub, where no --checkpoint is given; --no-pretrained: seeded random ones."""
    device: str = "auto"
    """Of the teacher: auto is CUDA if there is one."""
    batch_size: int = 64
    """Views in one forward pass; the same gives the same bytes on the same kind of device."""
    workers: Annotated[int, tyro.conf.arg(aliases=["--render-workers"])] = 0
    """Processes that render views for a teacher; 0 renders in the teacher's own."""
    channels_last: bool = True
    """Lay the teacher's weights out as the pixels lie."""
    compile: bool = False
    """Compile the teacher with torch.compile."""

    def __post_init__(self) -> None:
        at_least("--batch-size", self.batch_size, 1)
        at_least("--workers", self.workers, 0)
        _ = self.room  # refuses less than nothing
