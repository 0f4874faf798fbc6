"""What every engine promises: the same archive, nothing lost, nothing torn, and a story of it."""

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import SHARD_SIZE, extract_flags, labels_tree, tree

from pipelines.cli import main
from pipelines.extraction.engines.engine import (
    Engine,
    Tally,
    UnitDone,
    UnitFailed,
    UnitResult,
    WorkerLost,
    WorkerStarted,
)
from pipelines.extraction.engines.local import LocalEngine
from pipelines.extraction.flags import ExtractConfig
from pipelines.extraction.queue import UnitQueue
from pipelines.extraction.request import EngineSettings, request_of
from pipelines.extraction.running.extract import make_worker
from teacher_cache.archive.format.layout import Unit
from teacher_cache.archive.format.manifest import read_manifest
from teacher_cache.archive.writers.write import ArchiveWriter
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import TeacherCacheError, UnfitError
from teacher_cache.labels.affinity_rule import calibration_parts, num_calibration_views
from teacher_cache.storage.store import Store

Capture = pytest.CaptureFixture[str]
NAMES = ("local", "ray-2", *(pytest.param(name, marks=pytest.mark.soak) for name in ("ray-1", "ray-4")))
_CPUS = 0.5


@pytest.fixture(params=["local", "ray-1"])
def engine(request: pytest.FixtureRequest) -> dict[str, object]:
    """Flags of an engine."""
    return engine_flags(request.param, request)


def engine_flags(name: str, request: pytest.FixtureRequest) -> dict[str, object]:
    if name == "local":
        return {"engine": "local"}
    address = request.getfixturevalue("ray_address")
    actors = name.removeprefix("ray-")
    return {"engine": "ray", "address": address, "num_actors": actors, "cpus_per_actor": _CPUS}


@contextlib.contextmanager
def opened(name: str, make_worker: Callable, request: pytest.FixtureRequest) -> Iterator[Engine]:
    found: Engine
    if name == "local":
        found = LocalEngine(make_worker)
    else:
        import ray.cloudpickle

        from pipelines.extraction.engines.ray import RayEngine

        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # actors cannot import tests
        settings = EngineSettings(
            num_actors=int(name.removeprefix("ray-")),
            cpus_per_actor=_CPUS,
            address=request.getfixturevalue("ray_address"),
        )
        found = RayEngine(make_worker, settings)
    try:
        yield found
    finally:
        found.close()


def events_of(out: Path) -> list[dict]:
    (run,) = Path(f"{out}.runs").iterdir()
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def report_of(out: Path) -> dict:
    (run,) = Path(f"{out}.runs").iterdir()
    return json.loads((run / "report.json").read_text())


@pytest.fixture
def poisoned(data: str, dataset: PackedDataset, tmp_path: Path) -> tuple[Path, str]:
    """A copy of the dataset with one image of shard 1 damaged, and that image's key."""
    shutil.copytree(data, tmp_path / "data")
    row = SHARD_SIZE + 3
    shard, image = tmp_path / "data" / "shard-000001.tar", dataset.image_bytes(row)
    whole = bytearray(shard.read_bytes())
    whole[whole.index(image) + len(image) // 2] ^= 0xFF
    shard.write_bytes(whole)
    return tmp_path / "data", dataset.index.key(row)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_engine_and_number_of_actors_gives_the_same_bytes(
    name: str, request: pytest.FixtureRequest, data: str, labels: str, tmp_path: Path
) -> None:
    assert main(extract_flags(data, tmp_path / "out", **engine_flags(name, request))) == 0
    assert tree(tmp_path / "out") == tree(labels)
    events = events_of(tmp_path / "out")
    assert [events[0]["event"], events[-1]["event"]] == ["run_started", "run_finished"]
    done = [event["unit"] for event in events if event["event"] == "unit_done"]
    assert sorted(done) == [f"{shard:05d}-{block:03d}" for shard in range(5) for block in range(2)]
    report = report_of(tmp_path / "out")
    assert (report["state"], report["actual"]["units"], report["actual"]["views"]) == ("finished", 10, 99)
    assert report["estimate"]["views"] == 99


@pytest.mark.slow
@pytest.mark.parametrize("name", ["local", pytest.param("ray-2", marks=pytest.mark.soak)])
def test_any_order_of_units_gives_the_same_bytes(
    name: str, request: pytest.FixtureRequest, data: str, labels: str, tmp_path: Path
) -> None:
    spec = read_manifest(Store(labels)).spec
    words = [word for word in extract_flags(data, tmp_path / "out") if "=" in word]
    flags = {word.split("=")[0].lstrip("-").replace("-", "_"): word.split("=", 1)[1] for word in words}
    numbers = {name: int(flags[name]) for name in ("topk", "img_size", "views_per_unit")}
    config = ExtractConfig(**{**flags, **numbers})
    writer = ArchiveWriter.open(Store(tmp_path / "out"), spec)
    order = request_of(config).order
    with opened(name, functools.partial(make_worker, order), request) as engine:
        parts = calibration_parts(num_calibration_views(spec.labels.affinity, 3, 33))
        list(engine.run(UnitQueue(parts, retries=0, max_quarantined=0), lambda views: None))
        engine.ask(lambda worker, advance: worker.freeze_calibration(parts))
        units = list(spec.layout.units(0, 3))[::-1]
        list(engine.run(UnitQueue(units, retries=0, max_quarantined=0), lambda views: None))
    writer.finish()
    assert labels_tree(tmp_path / "out") == labels_tree(labels)


@pytest.mark.slow
def test_a_poisoned_image_is_named_its_units_are_given_up_and_the_rest_is_done(
    engine: dict, poisoned: tuple[Path, str], data: str, labels: str, tmp_path: Path, capsys: Capture
) -> None:
    damaged, key = poisoned
    out = tmp_path / "out"
    assert main(extract_flags(str(damaged), out, **engine)) == 1
    said = capsys.readouterr().err
    for unit in ("00001-000", "00001-001"):
        assert f"unit {unit} was given up: the image of {key!r}" in said
    missing = set(tree(labels)) - set(tree(out))
    assert {name for name in missing if name.startswith("receipts/")} == {
        *("receipts/00001-000.json", "receipts/00001-001.json"),
        *(
            "receipts/affinity.json",
            "receipts/agreement.json",
        ),  # the image is one of those it is calibrated on
    }
    assert all(tree(labels)[name] == data for name, data in tree(out).items())
    events = events_of(out)
    failures = [event for event in events if event["event"] == "unit_failed"]
    assert [event["attempt"] for event in failures if event["unit"] == "00001-001"] == [1, 2, 3]
    assert events[-1]["event"] == "run_incomplete"
    assert set(report_of(out)["quarantined"]) == {*("00001-000", "00001-001", "calibration-00000")}
    shutil.copy(Path(data) / "shard-000001.tar", damaged)
    assert main(extract_flags(str(damaged), out, **engine)) == 0
    assert tree(out) == tree(labels)


@pytest.mark.slow
def test_only_what_is_missing_is_done(engine: dict, data: str, labels: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(labels, out)
    for name in ("manifest.json", "receipts/00003-000.json"):
        (out / name).unlink()
    finished = (out / "receipts/00000-000.json").stat().st_mtime_ns
    assert main(extract_flags(data, out, **engine)) == 0
    assert tree(out) == tree(labels)
    assert [e["unit"] for e in events_of(out) if e["event"] == "unit_done"] == ["00003-000"]
    assert (out / "receipts/00000-000.json").stat().st_mtime_ns == finished


@pytest.mark.slow
def test_a_missing_affinity_is_calibrated_also_where_no_unit_is_missing(
    engine: dict, data: str, labels: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(labels, out)
    for name in ("manifest.json", "receipts/affinity.json", "labels.zarr/affinity_dq/c/0/0"):
        (out / name).unlink()
    assert main(extract_flags(data, out, **engine)) == 0
    assert tree(out) == tree(labels)
    assert "calibrated" in [event["event"] for event in events_of(out)]


@pytest.mark.slow
def test_paths_are_those_of_the_folder_a_run_is_started_in(
    engine: dict, data: str, labels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(extract_flags(os.path.relpath(data, tmp_path), "out", **engine)) == 0
    assert tree(tmp_path / "out") == tree(labels)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.runs"]


@pytest.mark.slow
def test_too_many_failures_stop_the_run(
    engine: dict, poisoned: tuple[Path, str], tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    assert main(extract_flags(str(poisoned[0]), out, **engine, retries=0, max_quarantined=0)) == 1
    assert "unit 00001-000 was given up" in capsys.readouterr().err
    assert not (out / "manifest.json").exists()


@pytest.mark.slow
def test_a_full_disk_ends_the_run_with_what_is_finished(
    engine: dict, data: str, labels: str, tmp_path: Path, capsys: Capture
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=65536", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no small file system can be mounted here")
    try:
        flags = {"run_dir": tmp_path / "run", **engine}
        assert main(extract_flags(data, disk / "out", **flags)) == 1
        shutil.copytree(disk / "out", tmp_path / "out")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    assert "No space left" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "report.json").read_text())["state"] == "failed"
    assert main(extract_flags(data, tmp_path / "out", **engine)) == 0
    assert tree(tmp_path / "out") == tree(labels)


@pytest.mark.slow
def test_a_wrong_teacher_is_told_as_it_is(engine: dict, data: str, tmp_path: Path, capsys: Capture) -> None:
    assert main(extract_flags(data, tmp_path / "out", **engine, checkpoint="/nowhere.safetensors")) == 2
    assert "checkpoint '/nowhere.safetensors' is not a file" in capsys.readouterr().err
    assert tree(tmp_path) == {}


class Faulty:
    """A worker without a teacher: unit 2 fails at first, unit 5 always, unit 7 cannot be written at first."""

    def __init__(self) -> None:
        self._met: set[int] = set()

    def compute(self, unit: Unit, advance: Callable[[int], None]) -> Unit:
        advance(3)
        if unit.shard == 5 or (unit.shard == 2 and self._is_first(2)):
            raise ValueError(f"unit {unit.shard} is odd")
        advance(1)
        return unit

    def write(self, unit: Unit) -> UnitResult:
        if unit.shard == 7 and self._is_first(7):
            raise OSError("a hiccup")
        return UnitResult(4, 100, 0.0, 0.0, 0.0)

    def _is_first(self, shard: int) -> bool:
        is_first = shard not in self._met
        self._met.add(shard)
        return is_first

    def close(self) -> None:
        pass


class Broken(Faulty):
    """Does nothing right, as with a GPU that fell off its bus."""

    def compute(self, unit: Unit, advance: Callable[[int], None]) -> Unit:
        del unit, advance
        raise RuntimeError("CUDA error: an illegal memory access\nCUDA kernel errors might be")


class Unfit(Faulty):
    def compute(self, unit: Unit, advance: Callable[[int], None]) -> Unit:
        del unit, advance
        raise UnfitError("this worker has another dataset")


UNITS = [Unit(shard, 0, 0, 4) for shard in range(10)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["local", "ray-1"])
def test_failures_are_retried_counted_once_and_told(name: str, request: pytest.FixtureRequest) -> None:
    counted: list[int] = []
    queue = UnitQueue(UNITS, retries=2, max_quarantined=5)
    with opened(name, Faulty, request) as engine:
        events = list(engine.run(queue, counted.append))
    assert sum(isinstance(event, WorkerStarted) for event in events) == 1
    assert {event.unit for event in events if isinstance(event, UnitDone)} == set(UNITS) - {UNITS[5]}
    failures = [
        (event.unit.shard, event.attempt, event.will_retry)
        for event in events
        if isinstance(event, UnitFailed)
    ]
    assert sorted(failures) == [(2, 1, True), (5, 1, True), (5, 2, True), (5, 3, False), (7, 1, True)]
    assert queue.quarantined == {UNITS[5]: "ValueError: unit 5 is odd"}
    assert sum(counted) == 4 * 9


@pytest.mark.slow
def test_a_broken_worker_ends_a_local_run_and_is_replaced_on_ray(request: pytest.FixtureRequest) -> None:
    queue = UnitQueue(UNITS, retries=0, max_quarantined=5)
    with (
        opened("local", Broken, request) as engine,
        pytest.raises(TeacherCacheError, match="5 units in a row failed, the last: RuntimeError: CUDA error"),
    ):
        list(engine.run(queue, lambda views: None))
    queue = UnitQueue(UNITS, retries=0, max_quarantined=5)
    with opened("ray-1", Broken, request) as engine:
        events = list(engine.run(queue, lambda views: None))
    assert [event.is_replaced for event in events if isinstance(event, WorkerLost)] == [True]
    failure = next(event for event in events if isinstance(event, UnitFailed))
    assert failure.reason == "RuntimeError: CUDA error: an illegal memory access"
    assert "in compute" in failure.details


@pytest.mark.slow
@pytest.mark.parametrize("name", ["local", "ray-2"])
def test_workers_that_are_not_fit_end_the_run_when_none_is_left(
    name: str, request: pytest.FixtureRequest
) -> None:
    queue = UnitQueue(UNITS, retries=2, max_quarantined=5)
    with opened(name, Unfit, request) as engine, pytest.raises(UnfitError, match="another dataset"):
        list(engine.run(queue, lambda views: None))
    assert queue.quarantined == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["local", "ray-2"])
def test_a_call_to_workers_that_are_not_fit_is_told(name: str, request: pytest.FixtureRequest) -> None:
    with opened(name, Unfit, request) as engine, pytest.raises(UnfitError, match="another dataset"):
        engine.ask(lambda worker, advance: worker.compute(UNITS[0], advance))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["local", "ray-1"])
def test_an_error_of_a_call_is_told_as_it_is(name: str, request: pytest.FixtureRequest) -> None:
    with opened(name, Wrong, request) as engine, pytest.raises(TeacherCacheError) as caught:
        engine.ask(lambda worker, _: worker.describe())
    assert (caught.value.value, caught.value.remedy) == ("wrong", "mend it")


class Wrong(Faulty):
    def describe(self) -> None:
        raise TeacherCacheError("wrong", "nothing", "mend it")


def test_a_tally_takes_back_what_it_counted() -> None:
    counted: list[int] = []
    tally = Tally(counted.append)
    tally.add(3)
    tally.add(4)
    tally.take_back()
    assert counted == [3, 4, -7]


def test_what_a_run_waits_for_is_said(ray_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.extraction.engines.ray import RayEngine
    from pipelines.extraction.engines.ray_actors import run as ray_run

    class ToldError(Exception):
        pass

    def tell(text: str, *parts: object) -> None:
        raise ToldError(text % parts)

    monkeypatch.setattr(ray_run, "_TELL_EVERY_S", 0.1)
    monkeypatch.setattr(ray_run._LOG, "warning", tell)
    settings = EngineSettings(num_actors=1, cpus_per_actor=99, address=ray_address)
    engine = RayEngine(Faulty, settings)
    try:
        with pytest.raises(ToldError, match="each takes 0 GPUs and 99 CPUs; free on the cluster: 0 GPUs"):
            engine.ask(lambda worker, _: worker.describe())
    finally:
        engine.close()


def test_a_cluster_that_is_not_there_is_said(data: str, tmp_path: Path, capsys: Capture) -> None:
    flags = {"engine": "ray", "address": "127.0.0.1:1"}
    assert main(extract_flags(data, tmp_path / "out", **flags)) == 2
    assert "--address 127.0.0.1:1" in capsys.readouterr().err


def test_flags_of_actors_are_refused_where_there_are_none(data: str, tmp_path: Path, capsys: Capture) -> None:
    assert main(extract_flags(data, tmp_path / "out", num_actors=2)) == 2
    assert "--num-actors with --engine local" in capsys.readouterr().err
