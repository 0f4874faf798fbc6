"""Processes that render for unit after unit."""

import contextlib
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from support import extract_flags, tree

from pipelines.cli import main
from pipelines.extraction.worker.worker import LabelWorker
from teacher_cache.batches.batch import view_batch
from teacher_cache.batches.pool import RenderPool
from teacher_cache.batches.rendered import ViewIds
from teacher_cache.batches.renderer import BatchRenderer
from teacher_cache.batches.transfer import HostCopy, on_device
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import DatasetError
from teacher_cache.views.recipe import load_recipe


def loads(rows: range) -> list[list[ViewIds]]:
    return [[ViewIds(np.array([row]), np.array([0]))] for row in rows]


def children() -> set[int]:
    found: set[int] = set()
    for task in Path(f"/proc/{os.getpid()}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread may end meanwhile
            found.update(map(int, (task / "children").read_text().split()))
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order_for_load_after_load(workers: int, dataset: PackedDataset) -> None:
    pool = RenderPool(BatchRenderer(dataset, load_recipe("rrc", 32)), workers)
    for rows in (range(5), range(3, 9)):
        found = [batch.rows_B.item() for batch in pool.render(loads(rows))]
        assert found == list(rows)
    assert pool.waited_s > 0


def test_processes_live_from_one_to_the_next_also_where_nobody_read_on(dataset: PackedDataset) -> None:
    pool, before = RenderPool(BatchRenderer(dataset, load_recipe("rrc", 32)), 1), children()
    next(pool.render(loads(range(8))))
    renderers = children() - before
    assert len(renderers) == 1
    assert len(list(pool.render(loads(range(4))))) == 4
    assert children() - before == renderers


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_comes_as_it_was_raised_and_the_pool_lives_on(
    workers: int, data: str, dataset: PackedDataset, tmp_path: Path
) -> None:
    for name, content in tree(data).items():
        damaged = bytearray(content)
        if name == "shard-000000.tar":
            damaged[content.index(dataset.image_bytes(0)) + 50] ^= 1
        (tmp_path / name).write_bytes(damaged)
    pool = RenderPool(BatchRenderer(PackedDataset(str(tmp_path)), load_recipe("rrc", 32)), workers)
    with pytest.raises(DatasetError) as caught:
        list(pool.render(loads(range(2))))
    assert "is not the one that was packed" in caught.value.value
    assert caught.value.remedy
    assert len(list(pool.render(loads(range(8, 10))))) == 2


@pytest.mark.slow
def test_a_renderer_that_is_killed_costs_one_try(
    data: str, labels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[int] = []
    compute = LabelWorker.compute

    def kill_then_compute(self: LabelWorker, unit: object, advance: object) -> object:
        renderers = children() - before
        if not killed and renderers:
            killed.append(renderers.pop())
            os.kill(killed[0], signal.SIGKILL)
        return compute(self, unit, advance)  # type: ignore[arg-type]

    before = children()
    monkeypatch.setattr(LabelWorker, "compute", kill_then_compute)
    assert main(extract_flags(data, tmp_path / "out", workers=1)) == 0
    assert killed
    assert tree(tmp_path / "out") == tree(labels)


NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NO_CUDA)])
def test_batches_and_results_cross_to_a_device_and_back(device: str, dataset: PackedDataset) -> None:
    pool = RenderPool(BatchRenderer(dataset, load_recipe("rrc", 32)), 0)
    is_cuda = device == "cuda"
    batches = [view_batch(batch, pin_memory=is_cuda) for batch in pool.render(loads(range(6)))]
    moved = list(on_device(iter(batches), torch.device(device)))
    assert [batch.rows_B.item() for batch in moved] == list(range(6))
    for batch, there in zip(batches, moved, strict=True):
        assert there.images_RCHW.device.type == device
        copy = HostCopy([there.images_RCHW.float().sum(), there.images_RCHW]).wait()
        assert copy[0] == batch.images_RCHW.float().sum()
        assert copy[1].equal(batch.images_RCHW)
