"""The extraction job as a user runs it: resumed, killed, repeated, and asked for what cannot be."""

import dataclasses
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import tiny_teacher
import torch
from support import (
    CLASSES,
    IMG_SIZE,
    SHARD_SIZE,
    TIMM_TEACHER,
    begun,
    encoded,
    extract_flags,
    picture,
    timm_teacher,
    tree,
    wait_until,
    write_class_folders,
)

from pipelines.cli import main
from pipelines.extraction.queue import MissingUnits, default_views_per_unit
from teacher_cache.archive.format.layout import Layout, Unit
from teacher_cache.archive.format.spec import spec_bytes
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.archive.writers.write import ArchiveWriter
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import InputError
from teacher_cache.exact.canonical import seal, unseal
from teacher_cache.models.create import create_model
from teacher_cache.storage.store import Store

Capture = pytest.CaptureFixture[str]


@pytest.mark.kill
@pytest.mark.slow
def test_sigkill_anywhere_then_again_gives_the_undisturbed_archive(
    data: str, labels: str, tmp_path: Path
) -> None:
    """Killed a few milliseconds into its writing, again and again, the run goes on from what is whole."""
    out = tmp_path / "killed"
    kills = 0
    rng = random.Random(0)
    while kills < 4 and not (out / "manifest.json").exists():
        before = set(out.rglob("*"))
        process = begun(main, extract_flags(data, out))
        wait_until(lambda known=before: set(out.rglob("*")) - known, lambda p=process: p.is_alive())
        time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.join()
        kills += process.exitcode == -signal.SIGKILL
    assert kills >= 2
    assert main(extract_flags(data, out)) == 0
    assert tree(out) == tree(labels)


def test_sigkill_between_objects_and_receipt_loses_only_that_unit(
    data: str, labels: str, tmp_path: Path
) -> None:
    out = tmp_path / "torn"
    shutil.copytree(labels, out)
    for name in ("manifest.json", "receipts/00003-000.json"):
        (out / name).unlink()
    (out / "labels.zarr/dq/c/3/0/0").write_bytes(b"half")
    (out / "labels.zarr/tail/c/3/0").unlink()
    (out / f"labels.zarr/tail/c/3/0.partial-{os.uname().nodename}-999999999-ab").write_bytes(b"half")
    finished = (out / "receipts/00000-000.json").stat().st_mtime_ns
    assert main(extract_flags(data, out)) == 0
    assert tree(out) == tree(labels)
    assert (out / "receipts/00000-000.json").stat().st_mtime_ns == finished


@pytest.mark.slow
@pytest.mark.kill
def test_sigterm_stops_cleanly_and_keeps_what_is_finished(data: str, labels: str, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    process = begun(main, extract_flags(data, out))
    wait_until(lambda: list(out.glob("receipts/*.json")), process.is_alive)
    process.terminate()
    process.join()
    assert process.exitcode in (130, 0)
    assert main(extract_flags(data, out)) == 0
    assert tree(out) == tree(labels)


def test_a_full_archive_asked_again_does_nothing(data: str, labels: str, capsys: Capture) -> None:
    before = {file: file.stat().st_mtime_ns for file in Path(labels).rglob("*")}
    assert main(extract_flags(data, labels)) == 0
    assert "every label asked for is there already" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in Path(labels).rglob("*")} == before


@pytest.mark.slow
def test_more_views_are_added_and_old_units_stay(data: str, labels: str, tmp_path: Path) -> None:
    out = tmp_path / "more"
    assert main(extract_flags(data, out, views="0:2")) == 0
    first = (out / "labels.zarr/idx/c/0/0/0").stat().st_mtime_ns
    assert main(extract_flags(data, out, views="2:3", views_per_unit=None)) == 0
    assert tree(out) == tree(labels)
    assert (out / "labels.zarr/idx/c/0/0/0").stat().st_mtime_ns == first


@pytest.mark.slow
def test_workers_do_not_change_the_archive(data: str, labels: str, tmp_path: Path) -> None:
    assert main(extract_flags(data, tmp_path / "out", workers=2)) == 0
    assert tree(tmp_path / "out") == tree(labels)


def test_plans_are_integers() -> None:
    layout = Layout(num_shards=2, rows_per_shard=8, views_per_unit=4, k=2, num_classes=10)
    finished = [Unit(0, 0, 0, 4), Unit(1, 1, 4, 6)]
    assert list(MissingUnits(layout, range(6), finished)) == [Unit(1, 0, 0, 4), Unit(0, 1, 4, 6)]
    assert len(MissingUnits(layout, range(4), [*finished, Unit(1, 0, 0, 4)])) == 0
    with pytest.raises(InputError, match=r"block 1 is finished with views 4:6(.|\n)*never rewritten"):
        MissingUnits(layout, range(8), finished)


def test_blocks_of_views_are_even() -> None:
    assert {views: default_views_per_unit(views) for views in (1, 4, 32, 33, 50, 300)} == {
        **{1: 1, 4: 4, 32: 32},
        **{33: 17, 50: 25, 300: 30},
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"topk": 4}, "--topk 4 with 3 classes"),
        ({"topk": 0}, "--topk 0"),
        ({"views": "3:1"}, "--views 3:1"),
        ({"views": "1:3"}, "begin at a multiple of 2"),
        ({"device": "cuda:99"}, "--device cuda:99"),
        ({"model_kwargs": "num_classes=9", "teacher": TIMM_TEACHER}, "remove num_classes"),
        ({"out": "s4://bucket/x"}, "s4://bucket/x cannot be opened"),
        ({"img_size": 0}, "--img-size 0"),
        ({"recipe": "rcc"}, "nearest: rrc"),
        ({"teacher": "regnety_0002"}, "regnety_002"),
        ({"teacher": "regnety_160.deit_in22k"}, "regnety_160.deit_in1k"),
        ({"data": "/nowhere"}, "has no dataset.json"),
        ({"device": "tpu7"}, "--device tpu7"),
        ({"checkpoint": "/nowhere.safetensors"}, "is not a file"),
        ({"model_kwargs": "depth"}, "--model-kwargs depth"),
    ],
    ids=str,
)
def test_a_wrong_request_is_said_and_nothing_is_written(
    changes: dict, message: str, data: str, tmp_path: Path, capsys: Capture
) -> None:
    changes = {**changes}
    data, out = changes.pop("data", data), changes.pop("out", tmp_path / "out")
    assert main(extract_flags(data, out, **changes)) == 2
    assert message in capsys.readouterr().err
    assert tree(tmp_path) == {}


def test_an_output_that_cannot_be_written_is_said(data: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "file").write_text("")
    assert main(extract_flags(data, tmp_path / "file" / "out")) == 2
    assert "cannot write to" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"topk": 1}, "labels.k 2, not 1"),
        ({"views_per_unit": 3}, "holds 2 views a unit"),
        ({"views": "0:4"}, "block 1 is finished with views 2:3"),
        ({"img_size": 48}, "recipe.img_size 32, not 48"),
        ({"recipe": "eval"}, "recipe.ops"),
        ({"precision": "bfloat16"}, "teacher.precision float32, not bfloat16"),
    ],
    ids=str,
)
def test_an_archive_of_another_request_is_left_alone(
    changes: dict, message: str, data: str, labels: str, capsys: Capture
) -> None:
    before = tree(labels)
    assert main(extract_flags(data, labels, **changes)) == 2
    assert message in capsys.readouterr().err
    assert tree(labels) == before


def test_other_arguments_of_a_timm_model_are_another_request(
    data: str, tmp_path: Path, capsys: Capture
) -> None:
    words = extract_flags(data, tmp_path / "out", **timm_teacher(), views="0:1")
    assert main(words) == 0
    assert main([*words, "--model-kwargs", "drop_rate=0.5"]) == 2
    assert "teacher.model_kwargs.drop_rate" in capsys.readouterr().err


def test_a_folder_of_something_else_is_left_alone(data: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "note.txt").write_text("mine")
    assert main(extract_flags(data, tmp_path)) == 2
    assert "is not an archive" in capsys.readouterr().err
    assert tree(tmp_path) == {"note.txt": b"mine"}


def test_an_archive_of_an_unknown_version_is_left_alone(
    data: str, labels: str, tmp_path: Path, capsys: Capture
) -> None:
    shutil.copytree(labels, tmp_path / "new")
    spec = tmp_path / "new" / "spec.json"
    spec.write_bytes(seal({**unseal(spec.read_bytes()), "version": 9}))
    before = tree(tmp_path / "new")
    assert main(extract_flags(data, tmp_path / "new")) == 2
    assert "version 9" in capsys.readouterr().err
    assert tree(tmp_path / "new") == before


@pytest.mark.parametrize("other", ["classes", "images"])
def test_an_archive_of_another_dataset_is_refused_by_the_student(
    other: str, labels: str, tmp_path: Path, capsys: Capture
) -> None:
    from student.cli import main as student_main

    source = write_class_folders(tmp_path / "images")
    if other == "classes":
        (source / "ant").rename(source / "ape")
    else:
        (source / "ant" / "ant00.jpg").write_bytes(encoded(picture(9, 30, 30), "JPEG"))
    assert main(["pack", str(source), str(tmp_path / "data"), "--shard-size", "8"]) == 0
    capsys.readouterr()
    flags = [
        "--data",
        str(tmp_path / "data"),
        "--labels",
        labels,
        "--output",
        str(tmp_path / "run"),
        "--batch-size",
        "8",
    ]
    assert student_main(["train", *flags, "--distillation", "hard"]) == 2
    message = "classes of another class list" if other == "classes" else "labels dataset"
    assert message in capsys.readouterr().err


def test_other_pixels_than_were_labelled_are_refused(
    data: str, labels: str, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from student.cli import main as student_main
    from teacher_cache.views import probe

    monkeypatch.setattr(probe, "probe_digest", lambda recipe: "0" * 64)
    flags = ["--data", data, "--labels", labels, "--output", str(tmp_path / "run"), "--batch-size", "8"]
    assert student_main(["train", *flags, "--distillation", "hard"]) == 2
    assert "renders other pixels here" in capsys.readouterr().err


def test_a_truncated_shard_is_named(data: str, tmp_path: Path, capsys: Capture) -> None:
    shutil.copytree(data, tmp_path / "data")
    shard = tmp_path / "data" / "shard-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-1000])
    assert main(extract_flags(str(tmp_path / "data"), tmp_path / "out")) == 2
    assert "shard-000001.tar has" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_cut_short_in_the_middle_of_a_shard_is_named(
    workers: int, data: str, dataset: PackedDataset, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    shutil.copytree(data, tmp_path / "data")
    shard = tmp_path / "data" / "shard-000001.tar"
    whole, image = bytearray(shard.read_bytes()), bytes(dataset.image_bytes(SHARD_SIZE + 3))
    middle = whole.index(image) + len(image) // 2
    whole[middle : middle + len(image) - len(image) // 2] = bytes(len(image) - len(image) // 2)
    shard.write_bytes(whole)
    flags = extract_flags(str(tmp_path / "data"), tmp_path / "out", workers=workers)
    assert main(flags) == 1
    assert f"the image of {dataset.index.key(SHARD_SIZE + 3)!r}" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pickle", "shape"])
def test_a_checkpoint_that_does_not_fit_is_refused(
    kind: str, data: str, tmp_path: Path, capsys: Capture
) -> None:
    file = tmp_path / "weights.pth"
    if kind == "pickle":
        torch.save({"state_dict": {}, "evil": os.system}, file)
    else:
        torch.save(create_model("regnety_002", num_classes=7, img_size=IMG_SIZE).state_dict(), file)
    assert main(extract_flags(data, tmp_path / "out", checkpoint=file)) == 2
    expected = "cannot be read" if kind == "pickle" else "does not fit"
    assert expected in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_teacher_that_is_not_finite_makes_no_labels(
    value: float, data: str, tmp_path: Path, capsys: Capture
) -> None:
    model = tiny_teacher.build(len(CLASSES)).module
    model.head.bias.data[1] = value
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    assert main(extract_flags(data, tmp_path / "out", checkpoint=tmp_path / "weights.pth")) == 1
    assert "logits of the views measured are not all finite" in capsys.readouterr().err
    assert not list((tmp_path / "out").rglob("receipts/*"))


def test_two_first_writers_share_the_first_ones_layout(labels: str, tmp_path: Path) -> None:
    """The second saw no spec when it looked: what it creates must not replace the first one's."""
    spec = ArchiveReader(labels).spec
    store = Store(tmp_path)
    assert store.put_new("spec.json", spec_bytes(spec))
    assert not store.put_new("spec.json", spec_bytes(dataclasses.replace(spec, views_per_unit=3)))
    writer = ArchiveWriter.open(store, dataclasses.replace(spec, views_per_unit=3))
    assert writer.spec.views_per_unit == 2


@pytest.mark.slow
def test_damaged_documents_are_made_again(data: str, labels: str, tmp_path: Path) -> None:
    for name in ("spec.json", "labels.zarr/zarr.json", "labels.zarr/dq/zarr.json", "manifest.json"):
        shutil.copytree(labels, tmp_path / name)
        (tmp_path / name / name).write_bytes(b"damaged")
        assert main(extract_flags(data, tmp_path / name)) == 0, name
        assert tree(tmp_path / name) == tree(labels), name


@pytest.mark.slow
def test_a_torch_checkpoint_is_read(data: str, tmp_path: Path) -> None:
    model = tiny_teacher.build(len(CLASSES), seed=3).module
    torch.save({"state_dict": model.state_dict()}, tmp_path / "weights.pth")
    assert main(extract_flags(data, tmp_path / "out", checkpoint=tmp_path / "weights.pth")) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "has no image in a class folder"),
        (lambda root: (root / "ant").mkdir(), "has no image in a class folder"),
        (lambda root: (root / "in.parquet").write_bytes(b"PAR1"), "in.parquet"),
        (lambda root: (root / "in.tar").write_bytes(b"no tar at all"), "in.tar"),
    ],
)
def test_a_source_without_images_is_said(make: object, message: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "in").mkdir()
    make(tmp_path / "in")  # type: ignore[operator]
    assert main(["pack", str(tmp_path / "in"), str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert main(["pack", str(tmp_path / "nowhere"), str(tmp_path / "out")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_verify_says_what_is_wrong_with_exit_code_1(labels: str, tmp_path: Path, capsys: Capture) -> None:
    assert main(["verify", labels, "--level", "full"]) == 0
    assert "no problems (full)" in capsys.readouterr().out
    shutil.copytree(labels, tmp_path / "copy")
    (tmp_path / "copy/labels.zarr/idx/c/0/0/0").write_bytes(b"")
    assert main(["verify", str(tmp_path / "copy")]) == 1
    assert "labels.zarr/idx/c/0/0/0 has 0 of" in capsys.readouterr().out
