"""What the next window of a remote dataset needs is fetched while this one is rendered."""

from pathlib import Path

import numpy as np
import pytest
from support import wait_until

from benchmarks.remote import upload
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.storage.cache import CacheRoom
from teacher_cache.storage.store import Store
from teacher_cache.stream.plan import StreamPlan, ViewSchedule
from teacher_cache.stream.stream import ViewStream

_BATCHES = 8


@pytest.fixture
def remote(s3: str, data: str, labels: str) -> tuple[str, str]:
    """URLs of a dataset of five shards and of its archive, in a bucket."""
    upload(Path(data), f"{s3}/data")
    upload(Path(labels), f"{s3}/labels")
    return f"{s3}/data", f"{s3}/labels"


def stream_of(data: str, labels: str, room: CacheRoom) -> ViewStream:
    dataset, archive = PackedDataset(data, room), ArchiveReader(labels, room)
    plan = StreamPlan(len(dataset), dataset.info.samples_per_shard, batch_size=4, seed=0, window_shards=1)
    return ViewStream(
        dataset,
        archive.recipe,
        plan,
        ViewSchedule(archive.views),
        num_batches=_BATCHES,
        archive=archive,
    )


def copies(room: CacheRoom) -> set[str]:
    return {file.name for file in Path(room.folder).glob("??/*") if ".partial-" not in file.name}


def test_the_next_shard_is_there_before_its_first_batch(remote: tuple[str, str], tmp_path: Path) -> None:
    room = CacheRoom(str(tmp_path / "room"))
    stream = stream_of(*remote, room)
    tars = {shard.sha256 for shard in PackedDataset(remote[0], room).info.shards}
    batches = iter(stream.loader(0))
    first = next(batches).rows_B.numpy()
    wait_until(lambda: len(copies(room) & tars) == 2)
    assert len(np.unique(first // 8)) == 1
    assert len(list(batches)) == _BATCHES - 1


def test_the_batches_are_those_of_local_files(
    remote: tuple[str, str], data: str, labels: str, tmp_path: Path
) -> None:
    for room in (CacheRoom(str(tmp_path / "room")), CacheRoom(str(tmp_path / "none"), max_bytes=0)):
        there, here = stream_of(*remote, room), stream_of(data, labels, room)
        for theirs, ours in zip(there.loader(0), here.loader(0), strict=True):
            assert theirs.images_RCHW.equal(ours.images_RCHW)
            assert theirs.rows_B.equal(ours.rows_B)
            assert theirs.labels.class_ids_BK.equal(ours.labels.class_ids_BK)


def test_a_missing_shard_is_told_by_the_reader(remote: tuple[str, str], tmp_path: Path) -> None:
    stream = stream_of(*remote, CacheRoom(str(tmp_path / "room")))
    for number in range(5):
        Store(remote[0]).delete(f"shard-{number:06d}.tar")
    with pytest.raises(FileNotFoundError):
        next(iter(stream.loader(0)))


@pytest.mark.parametrize(
    ("plan", "loads"),
    [
        (StreamPlan(100, 10, batch_size=4, seed=0, window_shards=2), 5),
        (StreamPlan(100, 10, batch_size=4, seed=0, window_shards=50), 25),
        (StreamPlan(100, 10, batch_size=4, seed=0, window_shards=2, world_size=2), 3),
    ],
)
def test_a_window_lasts_some_loads(plan: StreamPlan, loads: int) -> None:
    assert plan.loads_per_window == loads
