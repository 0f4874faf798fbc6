"""Processes of a run: a single one, those that torchrun started, or those of Ray Train."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator

import torch
import torch.distributed as dist

from teacher_cache.errors import InputError
from teacher_cache.models.create import resolve_device
from teacher_cache.stream.shares import launcher_of_several


@dataclasses.dataclass(frozen=True)
class Ranks:
    """One process of a run.

    Attributes:
        rank: Number of the process, from 0; only process 0 writes.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the elementwise sum over all processes to each of them; every process must call this."""
        if dist.is_initialized():
            values = values.clone()
            dist.all_reduce(values)
        return values

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the elementwise mean over all processes to each of them; every process must call this."""
        return self.sum(values) / self.world_size

    def is_same(self, number: int) -> bool:
        """Return whether all processes hold the same number; every process must call this."""
        mine = torch.tensor([number, -number], device=self.device)
        if dist.is_initialized():
            dist.all_reduce(mine, op=dist.ReduceOp.MAX)
        return mine.tolist() == [number, -number]

    def align(self, model: torch.nn.Module) -> None:
        """Copy the first process's buffers to all others: each has running statistics of its own batches."""
        if dist.is_initialized():
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)


def is_first_process() -> bool:
    """Return whether this is the process that prints; works before the process group exists, too."""
    return os.environ.get("RANK", "0") == "0"


@contextlib.contextmanager
def joined(device_name: str) -> Iterator[Ranks]:
    """Join the run's process group (gloo on CPUs; NCCL, a GPU per process), and yield this process.

    A process group that exists already, as in a worker of Ray Train, is used and left open.

    Args:
        device_name: Name of a device, as in `resolve_device`.

    Raises:
        ModelError: There is no such device.
        InputError: A launcher started several processes that cannot find each other.
    """
    device = resolve_device(device_name)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    is_ours = not dist.is_initialized() and "WORLD_SIZE" in os.environ
    launcher = launcher_of_several()
    if launcher is not None and not is_ours and not dist.is_initialized():
        raise InputError(
            f"{launcher} is {os.environ[launcher]}, and WORLD_SIZE is not set",
            "Each process would be a run of its own.",
            "start it by torchrun, on several machines by srun with one torchrun a machine; or set RANK, "
            "WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT",
        )
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
