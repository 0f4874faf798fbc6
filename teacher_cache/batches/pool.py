"""Processes that render batches, and stay alive from one unit to the next."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from torch.utils.data import DataLoader, Dataset

from teacher_cache.batches.batch import PackedBatch, ViewIds, pack_batch, unchanged
from teacher_cache.batches.renderer import BatchRenderer
from teacher_cache.errors import TeacherCacheError

Load = Sequence[ViewIds]
"""Batches that are rendered together because they share their images."""


class RenderPool:
    """Pool of processes that render loads in order, a bounded number ahead.

    Args:
        renderer: Renderer of the views.
        workers: Number of processes, started with the first load; 0 renders in this process.

    Attributes:
        renderer: Renderer of the views.
        waited_s: Seconds that iteration has waited for rendered loads.
    """

    def __init__(self, renderer: BatchRenderer, workers: int) -> None:
        self.renderer = renderer
        self.waited_s = 0.0
        self._wanted = _Wanted()
        self._loader = DataLoader(
            _Loads(renderer),
            batch_size=None,
            sampler=self._wanted,
            collate_fn=unchanged,
            num_workers=workers,
            persistent_workers=workers > 0,
        )

    def render(self, loads: Sequence[Load]) -> Iterator[PackedBatch]:
        """Yield the batches of some loads.

        Raises:
            DatasetError: An image is not the one that was packed.
            ImageError: An image cannot be decoded.
            RuntimeError: A rendering process died, and the pool can no longer be used.
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
    """Sampler, in DataLoader's terms: the wanted loads in order."""

    loads: Sequence[Load] = ()

    def __iter__(self) -> Iterator[Load]:
        return iter(self.loads)


class _Loads(Dataset[list[PackedBatch] | TeacherCacheError]):
    """Dataset, in DataLoader's terms: renders a load when it is asked for."""

    def __init__(self, renderer: BatchRenderer) -> None:
        self._renderer = renderer

    def __getitem__(self, load: Load) -> list[PackedBatch] | TeacherCacheError:
        try:
            return [pack_batch(batch) for batch in self._renderer.render(load)]
        except TeacherCacheError as error:  # returned, not raised: DataLoader would turn it into text
            return error
