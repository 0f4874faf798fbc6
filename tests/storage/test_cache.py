"""Copies of remote objects: fetched once, by content, in a bounded room."""

import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pytest
from support import SHARD_SIZE, tree

from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.archive.verify import verify
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import DamagedError, DatasetError, DeniedError, InputError
from teacher_cache.exact.canonical import sha256_hex
from teacher_cache.program.progress import silent
from teacher_cache.storage.cache import CacheRoom, ReadThroughCache
from teacher_cache.storage.store import Store

BYTES = 40


@pytest.fixture
def store() -> Store:
    store = Store(f"memory://{uuid.uuid4().hex}")
    for number in range(4):
        store.put(str(number), content(number))
    return store


def content(number: int) -> bytes:
    return bytes([number]) * BYTES


def read(cache: ReadThroughCache, store: Store, number: int) -> bytes:
    file = cache.open(store, str(number), sha256_hex(content(number)), BYTES)
    assert file is not None
    with file:
        return file.read()


def copies(folder: Path) -> set[str]:
    return {file.name for file in folder.rglob("*") if file.is_file()}


def test_an_object_is_fetched_once(store: Store, tmp_path: Path) -> None:
    cache = ReadThroughCache(CacheRoom(str(tmp_path), 1000))
    assert read(cache, store, 1) == content(1)
    store.delete("1")
    assert read(cache, store, 1) == content(1)
    assert read(ReadThroughCache(CacheRoom(str(tmp_path), 1000)), store, 1) == content(1)


def test_the_room_is_bounded_and_what_was_used_longest_ago_goes(store: Store, tmp_path: Path) -> None:
    cache = ReadThroughCache(CacheRoom(str(tmp_path), 2 * BYTES))
    for number in (0, 1, 0, 2):
        read(cache, store, number)
        assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) <= 2 * BYTES
    assert copies(tmp_path) == {sha256_hex(content(0)), sha256_hex(content(2))}


def test_an_opened_copy_outlives_its_eviction(store: Store, tmp_path: Path) -> None:
    cache = ReadThroughCache(CacheRoom(str(tmp_path), BYTES))
    opened = cache.open(store, "0", sha256_hex(content(0)), BYTES)
    assert opened is not None
    read(cache, store, 1)
    assert copies(tmp_path) == {sha256_hex(content(1))}
    with opened:
        assert opened.read() == content(0)


def test_what_finds_no_room_is_not_copied(store: Store, tmp_path: Path) -> None:
    cache = ReadThroughCache(CacheRoom(str(tmp_path), BYTES - 1))
    assert cache.open(store, "0", sha256_hex(content(0)), BYTES) is None
    assert copies(tmp_path) == set()


def test_other_bytes_are_refused_and_not_kept(store: Store, tmp_path: Path) -> None:
    cache = ReadThroughCache(CacheRoom(str(tmp_path), 1000))
    store.put("0", content(1))
    with pytest.raises(DamagedError, match="does not have the sha256"):
        cache.open(store, "0", sha256_hex(content(0)), BYTES)
    assert copies(tmp_path) == set()


def test_a_folder_that_cannot_be_written_is_said(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DeniedError, match="cannot write to"):
        read(ReadThroughCache(CacheRoom(str(tmp_path / "file"), 1000)), store, 0)


def test_on_a_full_disk_nothing_is_copied_and_nothing_fails(store: Store, tmp_path: Path) -> None:
    mount = ["mount", "-t", "tmpfs", "-o", "size=16384", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no small file system can be mounted here")
    try:
        large = bytes(100_000)
        store.put("large", large)
        cache = ReadThroughCache(CacheRoom(str(tmp_path)))
        assert cache.open(store, "large", sha256_hex(large), len(large)) is None
        assert copies(tmp_path) == set()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_what_another_process_fetches_is_not_evicted(store: Store, tmp_path: Path) -> None:
    (tmp_path / "ab").mkdir()
    on_its_way = tmp_path / "ab" / f"{'ab' * 32}.partial-elsewhere-1-cd"
    on_its_way.write_bytes(bytes(BYTES))
    read(ReadThroughCache(CacheRoom(str(tmp_path), BYTES)), store, 0)
    assert on_its_way.exists()


def test_less_than_no_room_is_refused() -> None:
    with pytest.raises(InputError, match="--cache-gib"):
        CacheRoom(max_bytes=-1)


def test_what_a_killed_process_left_is_swept(store: Store, tmp_path: Path) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path; from teacher_cache.storage.store import Store\n"
        "with Store(sys.argv[1]).put_file(sys.argv[2]) as path:\n"
        "    path.write_bytes(b'half'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    digest = sha256_hex(content(0))
    command = [sys.executable, "-c", script, str(tmp_path / digest[:2]), digest]
    assert subprocess.run(command, check=False).returncode < 0
    assert len(copies(tmp_path)) == 1
    assert read(ReadThroughCache(CacheRoom(str(tmp_path), 1000)), store, 0) == content(0)
    assert copies(tmp_path) == {digest}


@pytest.fixture(params=["memory", "s3"])
def elsewhere(request: pytest.FixtureRequest) -> str:
    """The URL of an empty remote folder."""
    if request.param == "s3":
        return request.getfixturevalue("s3") + "/copy"
    return f"memory://{uuid.uuid4().hex}"


@pytest.mark.slow
@pytest.mark.parametrize("shards_of_room", [0, 1, 9])
def test_a_remote_dataset_gives_the_same_images_in_any_room(
    shards_of_room: int, elsewhere: str, data: str, dataset: PackedDataset, tmp_path: Path
) -> None:
    for name, content in tree(data).items():
        Store(elsewhere).put(name, content)
    largest = max(shard.num_bytes for shard in dataset.info.shards)
    room = CacheRoom(str(tmp_path), shards_of_room * largest)
    remote = PackedDataset(elsewhere, room)
    rows = np.random.default_rng(0).integers(0, len(dataset), 60)
    for row in rows.tolist():
        assert remote.image_bytes(row) == dataset.image_bytes(row)
    held = [file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()]
    assert sum(held) <= room.max_bytes
    assert len(held) <= len(dataset.info.shards)
    assert len(held) == min(shards_of_room, len(dataset.info.shards)) or shards_of_room == 1


def test_a_damaged_remote_shard_is_named(
    elsewhere: str, data: str, dataset: PackedDataset, tmp_path: Path
) -> None:
    for name, content in tree(data).items():
        damaged = content[:-1] + bytes([content[-1] ^ 1]) if name == "shard-000001.tar" else content
        Store(elsewhere).put(name, damaged)
    remote = PackedDataset(elsewhere, CacheRoom(str(tmp_path)))
    assert remote.image_bytes(0) == dataset.image_bytes(0)
    with pytest.raises(DatasetError, match=r"shard-000001\.tar does not have the sha256"):
        remote.image_bytes(SHARD_SIZE)


@pytest.mark.slow
@pytest.mark.parametrize("room_bytes", [0, 10**9])
def test_a_remote_archive_gives_the_same_labels_and_verify_looks_behind_copies(
    room_bytes: int, elsewhere: str, labels: str, tmp_path: Path
) -> None:
    for name, content in tree(labels).items():
        Store(elsewhere).put(name, content)
    here, there = ArchiveReader(labels), ArchiveReader(elsewhere, CacheRoom(str(tmp_path), room_bytes))
    for shard, view in [(0, 0), (0, 1), (4, 2), (0, 0)]:
        for ours, theirs in zip(here.labels(shard, view), there.labels(shard, view), strict=True):
            assert ours.equal(theirs)
    assert verify(elsewhere, "full", silent) == []
    name = "labels.zarr/dq/c/0/0/0"
    content = tree(labels)[name]
    Store(elsewhere).put(name, bytes(len(content)))
    (problem,) = verify(elsewhere, "full", silent)
    assert "unit 00000-000" in str(problem)
