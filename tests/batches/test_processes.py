"""Processes that render: the same bits however they are started, no torch in them, nothing left of them."""

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from support import forked, free_port, wait_until

from teacher_cache import LabelledViews
from teacher_cache.batches import process, shared_pages
from teacher_cache.batches.pool import RenderPool
from teacher_cache.batches.rendered import ViewIds
from teacher_cache.batches.renderer import BatchRenderer
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import FullError, InputError, LostProcessError
from teacher_cache.views.recipe import load_recipe

SCRIPT = str(Path(__file__).parents[1] / "drive_views.py")
METHODS = ("fork", *(pytest.param(name, marks=pytest.mark.slow) for name in ("forkserver", "spawn")))
LOADS = [[ViewIds(np.arange(row, row + 4), np.full(4, row % 3))] for row in range(12)]


def command(method: str, data: str, labels: str, *rest: str) -> list[str]:
    return [sys.executable, SCRIPT, method, data, labels, *rest]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def shared_files() -> set[str]:
    """Return what lies in /dev/shm, without what other tests' Ray and PostgreSQL put there meanwhile."""
    names = {file.name for file in Path("/dev/shm").iterdir()}
    return {name for name in names if not name.startswith(("sem.", "plasma", "ray", "PostgreSQL"))}


@pytest.fixture(scope="module")
def alone(data: str, labels: str) -> dict:
    """Return what the script prints without processes that render."""
    printed = subprocess.run(
        command("fork", data, labels, "0"), env=environment(), capture_output=True, text=True, check=True
    )
    return json.loads(printed.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_script_without_a_guard_gets_the_same_bits_and_leaves_nothing(
    method: str, data: str, labels: str, alone: dict
) -> None:
    before = shared_files()
    printed = subprocess.run(
        command(method, data, labels, "2", "pause"),
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    *seen, last = map(json.loads, printed.stdout.splitlines())
    assert last == alone
    assert len({tuple(line["pids"]) for line in seen}) == 1, "the processes did not live over both epochs"
    assert len(seen[0]["pids"]) == 3
    assert not any(map(is_running, seen[0]["pids"]))
    assert shared_files() == before


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    context = multiprocessing.context._concrete_contexts[request.param]
    monkeypatch.setattr(multiprocessing, "get_context", lambda: context)


def pool_of(dataset: PackedDataset, workers: int = 1) -> RenderPool[BatchRenderer]:
    return RenderPool(BatchRenderer(dataset, load_recipe("deit", 32)), workers)


def pixels_of(pool: RenderPool[BatchRenderer]) -> list[bytes]:
    return [batch.images_RHWC.tobytes() for batch in pool.render(LOADS)]


def pid_of(pool: RenderPool[BatchRenderer]) -> int:
    pid = pool._processes[0]._process.pid
    assert pid is not None
    return pid


@pytest.mark.usefixtures("method")
def test_processes_render_the_same_bits(dataset: PackedDataset) -> None:
    pool = pool_of(dataset, 2)
    assert pixels_of(pool) == pixels_of(pool_of(dataset, 0))
    pool.close()


def test_a_process_that_is_spawned_holds_a_decoder_and_no_torch(
    dataset: PackedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocessing, "get_context", lambda: multiprocessing.context.SpawnContext())
    pool = pool_of(dataset)
    next(pool.render(LOADS))
    maps = Path(f"/proc/{pid_of(pool)}/maps").read_text()
    assert "simplejpeg" in maps
    assert not [name for name in ("libtorch", "zarr", "timm", "matplotlib") if name in maps]
    pool.close()


@pytest.mark.usefixtures("method")
def test_a_process_that_is_killed_is_named_with_what_to_do(dataset: PackedDataset) -> None:
    pool = pool_of(dataset)
    batches = pool.render(LOADS)
    next(batches)
    os.kill(pid_of(pool), signal.SIGKILL)
    with pytest.raises(LostProcessError, match="ended with SIGKILL") as caught:
        list(batches)
    assert "memory" in caught.value.consequence
    assert "fewer --workers" in caught.value.remedy
    assert pixels_of(pool) == pixels_of(pool_of(dataset, 0)), "other processes go on"
    pool.close()


def test_a_reader_that_is_interrupted_while_it_waits_begins_anew(
    dataset: PackedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pool_of(dataset, 1)
    batches = pool.render(LOADS)
    next(batches)
    before = pid_of(pool)
    with monkeypatch.context() as patched:
        patched.setattr(process.RenderProcess, "_reply", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(batches)
    assert pixels_of(pool) == pixels_of(pool_of(dataset, 0))
    assert pid_of(pool) != before
    pool.close()


def interrupted(_: object) -> None:
    raise KeyboardInterrupt


def test_views_that_were_read_are_pickled_and_forked_without_their_processes(data: str, labels: str) -> None:
    views = LabelledViews(data, labels=labels, batch_size=4)
    whole = [batch.rows_B.tolist() for batch in views.epoch(0, workers=1)]
    copy = pickle.loads(pickle.dumps(views))
    assert [batch.rows_B.tolist() for batch in copy.epoch(0, workers=1)] == whole
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(target=read_all, args=(views, theirs))
    child.start()
    assert ours.recv() == whole
    child.join()
    assert [batch.rows_B.tolist() for batch in views.epoch(0, workers=1)] == whole


def read_all(views: LabelledViews, found: Connection) -> None:
    found.send([batch.rows_B.tolist() for batch in views.epoch(0, workers=1)])


@pytest.mark.usefixtures("method")
def test_processes_end_with_their_pool(dataset: PackedDataset) -> None:
    pool = pool_of(dataset, 2)
    next(pool.render(LOADS))
    pids = [process._process.pid for process in pool._processes]
    del pool
    assert not any(is_running(pid) for pid in pids if pid)


def read_slowly(method: str, data: str, labels: str, pids: Connection) -> None:
    multiprocessing.set_start_method(method, force=True)
    multiprocessing.set_forkserver_preload([])  # what tests preload is no part of a user's program
    views = LabelledViews(data, labels=labels, batch_size=4)
    for _ in views.epoch(0, workers=2):
        pids.send([process._process.pid for process in views._stream._pool._processes])
        time.sleep(60)


@pytest.mark.kill
@pytest.mark.parametrize("method", METHODS)
def test_no_process_outlives_a_parent_that_is_killed(method: str, data: str, labels: str) -> None:
    before = shared_files()
    ours, theirs = multiprocessing.Pipe()
    parent = forked.Process(target=read_slowly, args=(method, data, labels, theirs))
    parent.start()
    pids = ours.recv()
    assert all(map(is_running, pids))
    parent.kill()
    parent.join()
    wait_until(lambda: not any(map(is_running, pids)), within_s=20)
    assert shared_files() == before


@pytest.mark.kill
@pytest.mark.parametrize("killed", [None, "rank", pytest.param("worker", marks=pytest.mark.soak)])
def test_two_ranks_of_torchrun_leave_nothing(killed: str | None, data: str, labels: str) -> None:
    before = shared_files()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    launcher += [f"--master-port={free_port()}", *command("fork", data, labels, "2", "pause")[1:]]
    ranks = subprocess.Popen(
        launcher, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert ranks.stdout is not None
    pids: set[int] = set()
    lines = []
    for line in ranks.stdout:
        lines.append(json.loads(line))
        found = lines[-1].get("pids", [])
        if killed and len(pids) == 3 and found and found[0] not in pids:
            os.kill(found[1 if killed == "worker" else 0], signal.SIGKILL)
        pids.update(found)
    ranks.wait()
    assert (ranks.returncode == 0) == (killed is None)
    assert len(pids) == 6
    wait_until(lambda: not any(map(is_running, pids)), within_s=20)
    assert shared_files() == before
    if not killed:
        assert len({line["digest"] for line in lines if "digest" in line}) == 2


@pytest.mark.slow
def test_memory_is_no_question_of_dev_shm(data: str, labels: str, alone: dict) -> None:
    """Containers have 64 MB there; here it has room for nothing."""
    tiny = "mount -t tmpfs -o size=4k tmpfs /dev/shm && dd if=/dev/zero of=/dev/shm/full bs=4k count=1 && "
    words = command("spawn", data, labels, "2")
    isolated = ["unshare", "--mount", "--propagation=private", "sh", "-c", tiny + 'exec "$@"', "sh", *words]
    done = subprocess.run(isolated, env=environment(), capture_output=True, text=True)
    if "Operation not permitted" in done.stderr or "unshare" in done.stderr:
        pytest.skip("this machine lends no mount namespaces")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == alone


def test_a_system_without_memfd_gets_the_same_bits(
    dataset: PackedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "memfd_create")
    pool = pool_of(dataset, 2)
    assert pixels_of(pool) == pixels_of(pool_of(dataset, 0))
    pool.close()


def test_tasks_that_a_pipe_may_not_take_are_sent_one_at_a_time(
    dataset: PackedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_PIPE_BYTES", 10)
    pool = pool_of(dataset, 2)
    assert pixels_of(pool) == pixels_of(pool_of(dataset, 0))
    pool.close()


def test_a_full_disk_is_said_where_pages_lie_on_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.delattr(os, "memfd_create")
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(FullError, match="no room for 4,096 bytes") as caught:
        shared_pages.SharedPages().grow(4096)
    assert "TMPDIR" in caught.value.remedy


class Missing(PackedDataset):
    """A dataset whose files are gone, which is found out when an image is read."""

    def image_view(self, row: int) -> memoryview:
        raise FileNotFoundError(2, "No such file", f"row {row}")


class Odd(PackedDataset):
    """A dataset whose library raises an error that cannot be sent."""

    def image_view(self, row: int) -> memoryview:
        class OddError(Exception):
            pass

        raise OddError(f"row {row}")


def test_errors_of_libraries_come_with_the_traceback_of_the_process(data: str) -> None:
    pool = RenderPool(BatchRenderer(Missing(data), load_recipe("rrc", 32)), 1)
    with pytest.raises(FileNotFoundError, match="row 0") as caught:
        list(pool.render(LOADS))
    assert "in image_view" in caught.value.__notes__[0]
    pool = RenderPool(BatchRenderer(Odd(data), load_recipe("rrc", 32)), 1)
    with pytest.raises(RuntimeError, match="OddError: row 0"):
        list(pool.render(LOADS))


def test_a_script_that_a_process_imports_is_told_of_the_guard(
    dataset: PackedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(InputError, match="still importing the script") as caught:
        next(pool_of(dataset).render(LOADS))
    assert '__name__ == "__main__"' in caught.value.remedy


def test_a_second_reader_beside_the_first_has_processes_of_its_own(data: str, labels: str) -> None:
    views = LabelledViews(data, labels=labels, batch_size=4)
    pairs = zip(views.epoch(0, workers=1), views.epoch(0, workers=1), strict=True)
    assert all(ours.rows_B.equal(theirs.rows_B) for ours, theirs in pairs)
