"""Between host and device without waiting: batches copied ahead, results on their way back."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator

import torch

from teacher_cache.batches.batch import ViewBatch


def on_device(batches: Iterable[ViewBatch], device: torch.device) -> Iterator[ViewBatch]:
    """Yield batches with their images on a device, each copied while the one before is computed with.

    On CUDA the copies go through a stream of their own, from pinned memory, one batch ahead; elsewhere the
    batches are as they were.
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
        images_RCHW.record_stream(compute)  # its memory is not given away before the compute stream is done
        if ahead is not None:
            compute.wait_event(ahead[1])
            yield ahead[0]
        ahead = (batch._replace(images_RCHW=images_RCHW), is_copied)
    if ahead is not None:
        compute.wait_event(ahead[1])
        yield ahead[0]


@functools.cache  # one for good: memory is kept for each stream apart
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


class HostCopy:
    """Tensors on their way to the host.

    Args:
        tensors: On one device; on the CPU they are taken as they are.
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
        """Return the tensors on the host, once they are there."""
        if self._is_there is not None:
            self._is_there.synchronize()
        return self._tensors


def copies_in_flight(device: torch.device) -> int:
    """Return how many results may be under way before the oldest is waited for."""
    return 1 if device.type == "cuda" else 0
