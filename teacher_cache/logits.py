"""Views through the teacher: entries -> rendered batches -> logits. It knows no unit and no label."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import DataLoader, Dataset

from teacher_cache.batch import (
    BatchRenderer,
    Entries,
    PackedBatch,
    ViewBatch,
    as_rendered,
    pack_batch,
    unpack_batch,
)
from teacher_cache.errors import TeacherCacheError
from teacher_cache.teacher import Teacher


class _Loads(Dataset[list[PackedBatch]]):
    """Batches, rendered load by load."""

    def __init__(self, renderer: BatchRenderer, loads: Sequence[Sequence[Entries]]) -> None:
        self._renderer, self._loads = renderer, loads

    def __len__(self) -> int:
        return len(self._loads)

    def __getitem__(self, number: int) -> list[PackedBatch]:
        return [pack_batch(batch) for batch in self._renderer.render(self._loads[number])]


def teacher_logits(
    renderer: BatchRenderer, teacher: Teacher, loads: Sequence[Sequence[Entries]], *, workers: int, what: str
) -> Iterator[tuple[ViewBatch, torch.Tensor]]:
    """Yield each batch with the teacher's logits of its views, (B, C) on the teacher's device.

    Args:
        renderer: Renders the views.
        teacher: Who is asked.
        loads: The batches, in loads that share their images.
        workers: Processes that render; 0 renders in this one.
        what: Whose views they are, for the error.

    Raises:
        DatasetError: An image is not the one that was packed.
        ImageError: An image cannot be decoded.
        TeacherCacheError: The teacher's output is not finite.
    """
    loader = DataLoader(_Loads(renderer, loads), batch_size=None, collate_fn=as_rendered, num_workers=workers)
    for packed in itertools.chain.from_iterable(loader):
        batch = unpack_batch(packed, pin_memory=teacher.device.type == "cuda")
        logits_BC = teacher.logits(batch.pixels(teacher.device))
        if not torch.isfinite(logits_BC).all():
            raise TeacherCacheError(
                f"the teacher's logits of {what} are not all finite",
                "They would be stored as labels that look valid.",
                "check its weights, or choose --precision float32",
            )
        yield batch, logits_BC
