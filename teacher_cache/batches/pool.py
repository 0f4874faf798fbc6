"""Processes that render batches, and live for as many loads as they are given: for unit after unit."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from torch.utils.data import DataLoader, Dataset

from teacher_cache.batches.batch import PackedBatch, ViewIds, as_rendered, pack_batch
from teacher_cache.batches.renderer import BatchRenderer
from teacher_cache.errors import TeacherCacheError

Load = Sequence[ViewIds]
"""Batches that are rendered together, because they share their images."""


class RenderPool:
    """Renders loads in order, a bounded number ahead.

    Args:
        renderer: Renders the views.
        workers: Processes that render, started with the first load; 0 renders in this one.

    Attributes:
        renderer: As given.
        waited_s: Seconds that whoever iterates spent waiting for rendered loads.
    """

    def __init__(self, renderer: BatchRenderer, workers: int) -> None:
        self.renderer = renderer
        self.waited_s = 0.0
        self._wanted = _Wanted()
        self._loader = DataLoader(
            _Loads(renderer),
            batch_size=None,
            sampler=self._wanted,
            collate_fn=as_rendered,
            num_workers=workers,
            persistent_workers=workers > 0,
        )

    def render(self, loads: Sequence[Load]) -> Iterator[PackedBatch]:
        """Yield the batches of some loads.

        Raises:
            DatasetError: An image is not the one that was packed.
            ImageError: An image cannot be decoded.
            RuntimeError: A process that renders died; the pool is of no use then.
        """
        self._wanted.loads = loads
        start_s = time.perf_counter()
        for rendered in self._loader:
            self.waited_s += time.perf_counter() - start_s
            if isinstance(rendered, TeacherCacheError):
                raise rendered
            yield from rendered
            start_s = time.perf_counter()


class _Wanted:
    """The loads that are wanted, in order: what DataLoader calls a sampler."""

    loads: Sequence[Load] = ()

    def __iter__(self) -> Iterator[Load]:
        return iter(self.loads)


class _Loads(Dataset[list[PackedBatch] | TeacherCacheError]):
    """Loads, rendered as they are asked for."""

    def __init__(self, renderer: BatchRenderer) -> None:
        self._renderer = renderer

    def __getitem__(self, load: Load) -> list[PackedBatch] | TeacherCacheError:
        try:
            return [pack_batch(batch) for batch in self._renderer.render(load)]
        except TeacherCacheError as error:  # as a value: DataLoader would make a text of it
            return error
