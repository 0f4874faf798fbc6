"""Run a teacher on rendered batches of views; this module knows no units and no labels."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence

import torch

from teacher_cache.batches.batch import ViewBatch, view_batch
from teacher_cache.batches.pool import RenderPool
from teacher_cache.batches.rendered import Load
from teacher_cache.batches.renderer import BatchRenderer
from teacher_cache.batches.transfer import HostCopy, copies_in_flight, on_device
from teacher_cache.errors import TeacherCacheError
from teacher_cache.models.teacher import Teacher


def teacher_logits(
    pool: RenderPool[BatchRenderer], teacher: Teacher, loads: Sequence[Load], *, what: str
) -> Iterator[tuple[ViewBatch, torch.Tensor]]:
    """Yield each batch with the teacher's logits of its views, (B, C) on the teacher's device.

    On CUDA this waits for the device only to check an earlier batch: logits that are not finite raise an
    error one batch later, and at the latest when the iteration ends.

    Args:
        loads: Batches of views, in loads that share their images.
        what: Description of the views for the error.

    Raises:
        DatasetError: An image is not the one that was packed.
        ImageError: An image cannot be decoded.
        TeacherCacheError: The teacher's output is not finite.
    """
    is_cuda = teacher.device.type == "cuda"
    batches = (view_batch(rendered, pin_memory=is_cuda) for rendered in pool.render(loads))
    unseen: deque[HostCopy] = deque()
    for batch in on_device(batches, teacher.device):
        logits_BC = teacher.logits(batch.pixels(teacher.device))
        unseen.append(HostCopy([torch.isfinite(logits_BC).all()]))
        while len(unseen) > copies_in_flight(teacher.device):
            _check_finite(unseen.popleft(), what)
        yield batch, logits_BC
    for rest in unseen:
        _check_finite(rest, what)


def _check_finite(is_finite: HostCopy, what: str) -> None:
    if not is_finite.wait()[0]:
        raise TeacherCacheError(
            f"the teacher's logits of {what} are not all finite",
            "They would be stored as labels that look valid.",
            "check its weights, or choose --precision float32",
        )
