"""The processes of a run: one alone, those that torchrun started, or those of Ray Train."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator

import torch
import torch.distributed as dist

from teacher_cache.models.create import resolve_device


@dataclasses.dataclass(frozen=True)
class Ranks:
    """A process among those of its run.

    Attributes:
        rank: Which it is, from 0; 0 alone writes.
        world_size: How many there are.
        device: Where it computes.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum over all processes, in each of them; every one must call it."""
        if dist.is_initialized():
            values = values.clone()
            dist.all_reduce(values)
        return values

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean over all processes, in each of them; every one must call it."""
        return self.sum(values) / self.world_size

    def is_same(self, number: int) -> bool:
        """Whether all processes hold the same number; every one must call it."""
        mine = torch.tensor([number, -number], device=self.device)
        if dist.is_initialized():
            dist.all_reduce(mine, op=dist.ReduceOp.MAX)
        return mine.tolist() == [number, -number]

    def align(self, model: torch.nn.Module) -> None:
        """Give all processes the first one's buffers: running statistics are of a process's own batches."""
        if dist.is_initialized():
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)


def is_first_process() -> bool:
    """Whether this process is the one to print, before and after it has joined the others."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def joined(device_name: str) -> Iterator[Ranks]:
    """Join the processes of the run: gloo between CPUs, NCCL between GPUs, each process with its own.

    A group that is there already, as in a worker of Ray Train, is used and left.

    Args:
        device_name: As in `resolve_device`.

    Raises:
        ModelError: There is no such device.
    """
    device = resolve_device(device_name)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    is_ours = not dist.is_initialized() and "WORLD_SIZE" in os.environ
    if is_ours:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        if dist.is_initialized():
            yield Ranks(dist.get_rank(), dist.get_world_size(), device)
        else:
            yield Ranks(0, 1, device)
    finally:
        if is_ours:
            dist.destroy_process_group()
