"""Copy batches to a device and results to the host without waiting."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

import torch

from teacher_cache.batches.batch import ViewBatch


def on_device(batches: Iterable[ViewBatch], device: torch.device) -> Iterator[ViewBatch]:
    """Yield batches with their images on a device, each copied while the one before is in use.

    On CUDA the copies use their own stream, from pinned memory, one batch ahead; on other devices the batches
    are yielded unchanged.
    """
    if device.type != "cuda":
        yield from batches
        return
    copies, compute = _copy_stream(device), torch.cuda.current_stream(device)
    ahead: tuple[ViewBatch, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(copies):
            images_RCHW = batch.images_RCHW.to(device, non_blocking=True)
            is_copied = torch.cuda.Event()
            is_copied.record(copies)
        images_RCHW.record_stream(compute)  # memory is not reused before the compute stream is done
        if ahead is not None:
            compute.wait_event(ahead[1])
            yield ahead[0]
        ahead = (batch._replace(images_RCHW=images_RCHW), is_copied)
    if ahead is not None:
        compute.wait_event(ahead[1])
        yield ahead[0]


@functools.cache  # one stream for good: memory is cached per stream
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


class HostCopy:
    """Copy of tensors to the host, under way.

    Args:
        tensors: Tensors on one device; tensors on the CPU are not copied.
    """

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        self._is_there: torch.cuda.Event | None = None
        self._tensors = list(tensors)
        device = self._tensors[0].device
        if device.type != "cuda":
            return
        pinned = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in self._tensors]
        for host, tensor in zip(pinned, self._tensors, strict=True):
            host.copy_(tensor, non_blocking=True)
        self._tensors = pinned
        self._is_there = torch.cuda.Event()
        self._is_there.record(torch.cuda.current_stream(device))

    def wait(self) -> list[torch.Tensor]:
        """Wait for the copy, and return the tensors on the host."""
        if self._is_there is not None:
            self._is_there.synchronize()
        return self._tensors


def copies_in_flight(device: torch.device) -> int:
    """Return how many asynchronous copies to the host may be pending: 1 on CUDA, else 0."""
    return 1 if device.type == "cuda" else 0
