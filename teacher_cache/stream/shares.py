"""Share of this process in a run of several: its rank and the number of processes."""

from __future__ import annotations

import operator
import os
from typing import NamedTuple

from teacher_cache.errors import InputError

_LAUNCHED = (
    *("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"),
)
"""Environment variables in which torchrun, srun, Open MPI, MPICH and MVAPICH give the number of processes."""


class Share(NamedTuple):
    """Rank of a process, and the number of processes."""

    rank: int
    world_size: int


def given_share(rank: int | None, world_size: int | None) -> Share | None:
    """Return the share that is given; None without any. Raises InputError if only one number is."""
    if (rank is None) != (world_size is None):
        raise InputError(f"rank {rank}, world_size {world_size}", "Both or neither are needed.", "give both")
    if rank is None or world_size is None:
        return None
    return Share(operator.index(rank), operator.index(world_size))


def share_of_process() -> Share:
    """Return the share that torch.distributed gives; that of a single process without it.

    Raises:
        InputError: A launcher started several processes, and torch.distributed is not initialized.
    """
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return Share(dist.get_rank(), dist.get_world_size())
    name = launcher_of_several()
    if name is not None:
        raise InputError(
            f"{name} is {os.environ[name]}, but torch.distributed is not initialized",
            "Every process would see every sample.",
            "call torch.distributed.init_process_group first, or pass rank and world_size",
        )
    return Share(0, 1)


def launcher_of_several() -> str | None:
    """Return the variable in which a launcher tells of several processes; None where there is one."""
    return next((name for name in _LAUNCHED if os.environ.get(name, "1") not in ("", "0", "1")), None)
