"""A student that follows a job learns what it would learn from the finished archive, and never skips."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from support import begun, extract_flags, labels_tree, tree, wait_until

from pipelines.cli import main as teacher_cache_main
from student.cli import main as student_main
from student.state import saved_updates
from teacher_cache.archive.format.layout import Unit
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.errors import TeacherCacheError
from teacher_cache.following.job import Filling, News
from teacher_cache.following.reader import FollowingReader, Patience, until
from teacher_cache.following.seal import students_first
from teacher_cache.storage.store import Store
from teacher_cache.stream.plan import StreamPlan, ViewSchedule, pairs_in_order

VIEWS, VIEWS_PER_UNIT = 6, 3
EPOCHS = 9
MODEL = ("--model-kwargs", "patch_size=8", "embed_dim=48", "depth=2", "num_heads=3")

BEGUN: list[multiprocessing.process.BaseProcess] = []


def extract_words(data: str, out: Path, *flags: str, **changes: object) -> list[str]:
    small = {"views": f"0:{VIEWS}", "views_per_unit": VIEWS_PER_UNIT, "batch_size": 8, **changes}
    return [*extract_flags(data, out, **small), *flags]


def train_words(data: str, labels: Path, output: Path, *flags: str) -> list[str]:
    return [
        *("train", f"--data={data}", f"--labels={labels}", f"--output={output}", "--distillation=soft"),
        *(f"--epochs={EPOCHS}", "--batch-size=8", "--checkpoint-interval=3", "--log-interval=1"),
        *("--device=cpu", *flags, *MODEL),
    ]


class Side:
    """One of the two: the job, or the student."""

    def __init__(self, main: Callable[[list[str]], int], words: list[str], log: Path) -> None:
        self.main, self.words, self.log = main, words, log
        log.touch()
        self.process = self._begun()

    def _begun(self) -> multiprocessing.process.BaseProcess:
        process = begun(self.main, self.words, self.log)
        BEGUN.append(process)
        return process

    def kill_and_begin(self) -> None:
        self.process.kill()
        self.process.join()
        self.process = self._begun()

    def exit_code(self) -> int:
        self.process.join(300)
        assert self.process.exitcode is not None, self.log.read_text()
        return self.process.exitcode


@pytest.fixture(autouse=True)
def no_side_outlives_its_test() -> Iterator[None]:
    yield
    while BEGUN:
        BEGUN.pop().kill()


def losses(output: Path) -> list[dict]:
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name != "seconds"} for line in lines if "step" in line
    ]


def weights(output: Path) -> dict[str, bytes]:
    return {name: content for name, content in tree(output).items() if name.endswith(".safetensors")}


@pytest.fixture(scope="module")
def undisturbed(data: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An archive by a plain extract, and a student of it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert teacher_cache_main(extract_words(data, folder / "labels")) == 0
    student = Side(student_main, train_words(data, folder / "labels", folder / "run"), folder / "log")
    assert student.exit_code() == 0
    return folder / "labels", folder / "run"


@pytest.mark.kill
@pytest.mark.slow
@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.soak)])
def test_both_sides_killed_again_and_again(
    kills: int, data: str, undisturbed: tuple[Path, Path], tmp_path: Path
) -> None:
    """Archive, losses and weights are those of an extract and a student one after the other."""
    archive, output, rng = tmp_path / "labels", tmp_path / "run", random.Random(0)
    student = Side(
        student_main,
        train_words(data, archive, output, "--follow", "--resume=auto", "--workers=1"),
        tmp_path / "student",
    )
    job = Side(teacher_cache_main, extract_words(data, archive, "--followed"), tmp_path / "job")
    receipts = archive.with_name("labels.filling") / "labels" / "receipts"
    for kill in range(kills):
        units = len(list(receipts.glob("0*")))
        wait_until(lambda n=units: len(list(receipts.glob("0*"))) > n, job.process.is_alive)  # type: ignore[misc]
        time.sleep(rng.uniform(0, 0.05))
        (job, student)[kill % 2].kill_and_begin()
    assert job.exit_code() == 0, job.log.read_text()
    assert student.exit_code() == 0, student.log.read_text()
    assert labels_tree(archive) == labels_tree(undisturbed[0])
    assert all(name.startswith("students/") for name in tree(archive.with_name("labels.filling")))
    assert losses(output) == losses(undisturbed[1])
    assert weights(output) == weights(undisturbed[1])


@pytest.mark.slow
def test_a_finished_archive_is_simply_read(data: str, undisturbed: tuple[Path, Path], tmp_path: Path) -> None:
    student = Side(
        student_main, train_words(data, undisturbed[0], tmp_path / "run", "--follow"), tmp_path / "log"
    )
    assert student.exit_code() == 0
    assert losses(tmp_path / "run") == losses(undisturbed[1])
    assert not undisturbed[0].with_name("labels.filling").exists()


@pytest.mark.slow
def test_views_are_added_to_a_finished_archive_while_a_student_follows(data: str, tmp_path: Path) -> None:
    few, both = tmp_path / "few", tmp_path / "both"
    assert teacher_cache_main(extract_words(data, few, views=f"0:{VIEWS_PER_UNIT}")) == 0
    assert teacher_cache_main(extract_words(data, both)) == 0
    job = Side(teacher_cache_main, extract_words(data, few, "--followed"), tmp_path / "job")
    wait_until(lambda: Filling(Store(few)).news() is not None, job.process.is_alive)
    student = Side(student_main, train_words(data, few, tmp_path / "run", "--follow"), tmp_path / "log")
    assert (job.exit_code(), student.exit_code()) == (0, 0), student.log.read_text()
    assert labels_tree(few) == labels_tree(both)
    assert ArchiveReader(str(few)).views == list(range(VIEWS))


@pytest.mark.slow
def test_a_failed_job_stops_the_student_with_its_reason_and_a_state(data: str, tmp_path: Path) -> None:
    """Wrong weights for the dataset's classes end the job; the student says so and can go on later."""
    archive, output = tmp_path / "labels", tmp_path / "run"
    limit = extract_words(data, archive, "--followed", "--max-gpu-hours=1e-3", "--affinity=none")
    job = Side(teacher_cache_main, limit, tmp_path / "job")
    receipts = archive.with_name("labels.filling") / "labels" / "receipts"
    wait_until(lambda: len(list(receipts.glob("0*"))) > 5, job.process.is_alive)  # a whole view, and not all
    job.process.kill()
    job.process.join()
    words = train_words(data, archive, output, "--follow", "--resume=auto", "--tail=uniform")
    student = Side(student_main, words, tmp_path / "student")
    wait_until(lambda: (output / "metrics.jsonl").exists(), student.process.is_alive)
    Filling(Store(archive)).tell(News("failed", [(0, VIEWS)], 30, 3, "", "the teacher's disk is full"))
    assert student.exit_code() == 1
    text = student.log.read_text()
    assert "failed: the teacher's disk is full" in text
    assert "never skips a view" in text
    assert saved_updates(Store(output))
    assert teacher_cache_main(limit) == 0
    assert Side(student_main, words, tmp_path / "student").exit_code() == 0


@pytest.mark.slow
def test_a_waiting_student_stops_on_sigterm(data: str, tmp_path: Path) -> None:
    archive = tmp_path / "labels"
    job = Side(teacher_cache_main, extract_words(data, archive, "--followed"), tmp_path / "job")
    wait_until(lambda: Filling(Store(archive)).news() is not None, job.process.is_alive)
    wait_until(lambda: list(archive.with_name("labels.filling").rglob("affinity.json")), job.process.is_alive)
    job.process.kill()
    job.process.join()
    student = Side(student_main, train_words(data, archive, tmp_path / "run", "--follow"), tmp_path / "log")
    wait_until(lambda: "waiting for the labels" in student.log.read_text(), student.process.is_alive)
    os.kill(student.process.pid or 0, signal.SIGTERM)
    assert student.exit_code() == 130


def test_silence_and_failure_end_the_waiting() -> None:
    said: list[str] = []
    with pytest.raises(TeacherCacheError, match="nothing was heard"):
        until(lambda: None, "it", lambda: None, Patience(0.05, said.append), 0.01)
    failed = News("failed", [(0, 1)], 2, 1, "", "no disk")
    with pytest.raises(TeacherCacheError, match="failed: no disk"):
        until(lambda: None, "it", lambda: failed, Patience(9), 0.01)
    with pytest.raises(KeyboardInterrupt):
        until(lambda: None, "it", lambda: None, Patience(9, said.append, lambda: True), 0.01)
    assert until(lambda: 7, "it", lambda: failed, Patience(9), 0.01) == 7


def units(shards: int, views: int) -> list[Unit]:
    return [Unit(shard, view, view, view + 1) for view in range(views) for shard in range(shards)]


def test_units_come_in_the_order_of_the_students_in_turn_then_the_others() -> None:
    missing = units(3, 2)
    assert list(students_first(missing, dict)) == missing
    wanted = {"a": [(2, 0), (9, 9), (2, 1)], "b": [(1, 1), (2, 0)]}
    order = [(unit.shard, unit.block) for unit in students_first(missing, lambda: wanted)]
    assert sorted(order) == sorted((unit.shard, unit.block) for unit in missing)
    assert order[:3] in ([(1, 1), (2, 0), (2, 1)], [(2, 0), (1, 1), (2, 1)])


def test_a_student_that_comes_later_is_heard() -> None:
    wanted: dict[str, list] = {}
    order = students_first(units(4, 2), lambda: wanted)
    assert next(order).shard == 0
    wanted["late"] = [(3, 1)]
    assert (next(order).shard, next(order).shard) == (3, 1)


def test_the_order_is_that_of_the_stream() -> None:
    plan = StreamPlan(33, 8, 4, seed=3, window_shards=2, drop_last=True)
    schedule = ViewSchedule([5, 7])
    seen: dict[tuple[int, int], None] = {}
    for batch in range(16):
        rows_B = plan.rows(batch).rows_B
        view = schedule.view(batch // plan.batches_per_epoch)
        seen.update(dict.fromkeys((int(row) // 8, view) for row in rows_B))
    order = list(pairs_in_order(plan, schedule, 0, 16))
    assert sorted(set(order)) == sorted(seen)
    windows = [order[start : start + 2] for start in (0, 2, 5, 7)]
    firsts = list(seen)
    assert [set(window) for window in windows[:1]] == [set(firsts[:2])]


def test_a_reader_in_a_worker_is_opened_anew(data: str, tmp_path: Path) -> None:
    import pickle

    archive = tmp_path / "labels"
    job = Side(teacher_cache_main, extract_words(data, archive, "--followed"), tmp_path / "job")
    wait_until(lambda: Filling(Store(archive)).news() is not None, job.process.is_alive)
    reader = FollowingReader(str(archive), ArchiveReader.__init__.__defaults__[0], 60.0)  # type: ignore[index]
    assert job.exit_code() == 0
    labels = pickle.loads(pickle.dumps(reader)).labels(4, 5)
    assert torch.equal(labels.tail_B, reader.labels(4, 5).tail_B)
    assert torch.equal(labels.tail_B, ArchiveReader(str(archive)).labels(4, 5).tail_B)
