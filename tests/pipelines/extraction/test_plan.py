"""What a run would do and take, said before it is begun."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
from support import CLASSES, extract_flags, tree

from pipelines.cli import main
from pipelines.extraction.messages import Rate
from pipelines.extraction.planning.estimate import (
    check_gpu_hours,
    estimate,
    measured_views,
    num_missing_views,
)
from pipelines.extraction.queue import MissingUnits
from teacher_cache.archive.format.manifest import read_manifest
from teacher_cache.archive.format.spec import OUTPUTS, ArchiveSpec
from teacher_cache.archive.format.spec_file import existing_spec
from teacher_cache.errors import InputError
from teacher_cache.storage.store import Store

Capture = pytest.CaptureFixture[str]


def plan_flags(data: str, out: object, **changes: object) -> list[str]:
    return ["plan", *extract_flags(data, str(out), **changes)[1:]]


@pytest.mark.slow
def test_a_plan_says_what_there_is_to_do_and_writes_nothing(
    data: str, tmp_path: Path, capsys: Capture
) -> None:
    assert main([*plan_flags(data, tmp_path / "out"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["units"], found["units_done"], found["views"], found["objects"]) == (10, 0, 99, 40)
    assert found["calibration_views"] == found["agreement"]["views"] == 33
    assert found["gpu_hours"] > 99 / found["views_per_s"] / 3600
    assert found["cost"] is None
    assert tree(tmp_path) == {}
    assert main(plan_flags(data, tmp_path / "out", price_per_gpu_hour=1000, epochs=30)) == 0
    said = capsys.readouterr().out
    for words in (
        "10 to do, 0 done",
        "99, and 33 to calibrate on\n",
        "40, ",
        "the teacher's top class is the label in ",
        "cost ",
        "student runs of 30 epochs",
    ):
        assert words in said


def test_what_is_done_is_not_planned_again(data: str, labels: str, capsys: Capture) -> None:
    before = tree(labels)
    assert main(plan_flags(data, labels)) == 0
    assert "there is nothing to do" in capsys.readouterr().out
    assert tree(labels) == before


def test_what_the_outputs_were_found_to_be_stands_in_the_spec(labels: str) -> None:
    spec = existing_spec(Store(labels))
    assert spec.made_with[OUTPUTS] == "logits"
    assert dataclasses.replace(spec, made_with={}).fingerprint == spec.fingerprint


def test_a_plan_mends_nothing(data: str, labels: str, tmp_path: Path) -> None:
    shutil.copytree(labels, tmp_path / "out")
    (tmp_path / "out/spec.json").write_bytes(b"damaged")
    (tmp_path / "out/labels.zarr/x.partial-host-999999-ab").write_bytes(b"left by a killed process")
    before = tree(tmp_path)
    assert main(plan_flags(data, tmp_path / "out")) == 0
    assert tree(tmp_path) == before


def test_a_whole_bucket_has_no_place_beside_it(data: str, capsys: Capture) -> None:
    assert main(extract_flags(data, f"memory://bucket{os.getpid()}")) == 2
    assert "is a whole bucket" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("command", ["plan", "extract"])
def test_more_hours_than_are_allowed_are_refused(
    command: str, data: str, tmp_path: Path, capsys: Capture
) -> None:
    words = extract_flags(data, tmp_path / "out", max_gpu_hours=1e-9)
    assert main([command, *words[1:]]) == 2
    assert (
        "--max-gpu-hours 1e-09, but the 99 views asked for, and 33 to calibrate on, take"
        in capsys.readouterr().err
    )
    assert tree(tmp_path) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_gpu_hours": 0}, "--max-gpu-hours 0"),
        ({"price_per_gpu_hour": -1}, "--price-per-gpu-hour -1"),
        ({"epochs": 0}, "--epochs 0"),
        ({"retries": -1}, "--retries -1"),
        ({"engine": "ray", "num_actors": 0}, "--num-actors 0"),
        ({"engine": "ray", "gpus_per_actor": -0.5}, "--gpus-per-actor -0.5"),
        ({"topk": len(CLASSES) + 1}, "--topk 4 with 3 classes"),
        ({"cache_gib": -1}, "--cache-gib"),
    ],
    ids=str,
)
def test_a_wrong_request_is_said(
    changes: dict, message: str, data: str, tmp_path: Path, capsys: Capture
) -> None:
    assert main(plan_flags(data, tmp_path / "out", **changes)) == 2
    assert message in capsys.readouterr().err
    assert tree(tmp_path) == {}


@pytest.fixture
def spec(labels: str) -> ArchiveSpec:
    return read_manifest(Store(labels)).spec


def test_an_estimate_is_the_plan_times_the_rate(spec: ArchiveSpec) -> None:
    missing = MissingUnits(spec.layout, range(3), ())
    rate = Rate(views=100, seconds=50.0, render_s=10.0, bytes_per_label=16.5)
    found = estimate(spec, missing, rate, num_workers=4, epochs=3, price_per_gpu_hour=2.0)
    assert num_missing_views(spec, missing) == found.views == 99
    assert found.views_per_s == 2.0
    assert found.gpu_hours == pytest.approx(49.5 / 3600)
    assert found.hours == pytest.approx(49.5 / 3600 / 4)
    assert found.cost == pytest.approx(2 * 49.5 / 3600)
    assert found.label_bytes == 1634
    assert found.render_share == 0.2
    live_s_per_run = 33 * 3 * 0.4  # samples, epochs, seconds of the teacher a view
    assert found.break_even_runs == pytest.approx(49.5 / live_s_per_run)


def test_no_more_workers_than_units_share_the_time(spec: ArchiveSpec) -> None:
    rate = Rate(views=100, seconds=50.0, render_s=0.0, bytes_per_label=16.0)
    found = estimate(spec, MissingUnits(spec.layout, range(3), ()), rate, num_workers=500, epochs=1)
    assert found.hours == pytest.approx(found.gpu_hours / 10)


def test_hours_are_refused_only_where_they_are_too_many(spec: ArchiveSpec) -> None:
    rate = Rate(views=99, seconds=3600.0, render_s=0.0, bytes_per_label=16.0)
    found = estimate(spec, MissingUnits(spec.layout, range(3), ()), rate, num_workers=1, epochs=1)
    check_gpu_hours(found, None)
    check_gpu_hours(found, 1.01)
    with pytest.raises(InputError, match="take about 1 hours"):
        check_gpu_hours(found, 0.99)


def test_a_measurement_is_a_thousandth_of_the_run_at_most() -> None:
    assert [measured_views(views) for views in (1, 99_999, 10**9)] == [1, 99, 2048]
