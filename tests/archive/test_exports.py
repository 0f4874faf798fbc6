"""What is made of an archive: tars and back, parquet, merged and extended archives."""

import functools
import io
import json
import pickle
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import webdataset
from PIL import Image
from support import CLASSES, SHARD_SIZE, extract_flags, labels_tree, tree, write_class_folders

from pipelines.cli import main
from student.cli import main as student_main
from teacher_cache.archive.exports.export_tars import shard_labels
from teacher_cache.archive.open import LabelPlaces, open_any, open_labels
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.archive.readers.read_tars import ExportReader
from teacher_cache.archive.verify import verify
from teacher_cache.archive.writers.write import ArchiveWriter
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import ArchiveError
from teacher_cache.following.reader import Patience, open_following
from teacher_cache.program.progress import silent
from teacher_cache.storage.store import Store


@pytest.fixture(scope="module")
def exported(labels: str, data: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("export") / "tars"
    assert main(["export", labels, str(folder), "--data", data]) == 0
    return str(folder)


def test_an_export_has_the_archives_labels(labels: str, exported: str) -> None:
    archive, export = ArchiveReader(labels), open_labels(exported)
    assert isinstance(export, ExportReader)
    assert export.views == archive.views
    at_once = functools.partial(open_following, patience=Patience(0.0))
    assert isinstance(open_any(LabelPlaces([exported]), at_once), ExportReader)  # there is nothing to follow
    for shard in range(5):
        for view in (0, 2, 1, 2):
            for ours, theirs in zip(archive.labels(shard, view), export.labels(shard, view), strict=True):
                assert torch.equal(ours, theirs)
    assert archive.affinity is not None
    assert export.affinity is not None
    for ours, theirs in zip(archive.affinity, export.affinity, strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(ArchiveError, match=r"no labels of view 3 of shard 0(.|\n)*views 0:3"):
        export.labels(0, 3)


def stored(reader: ArchiveReader, row: int) -> dict[str, np.ndarray]:
    """The stored numbers of a sample, for all views."""
    whole = shard_labels(reader, row // SHARD_SIZE, range(3))
    return {
        f"{name}.npy": values[row % SHARD_SIZE]
        for name, values in zip(("idx", "dq", "tail"), whole, strict=True)
    }


def test_webdataset_reads_an_export_without_our_code(
    labels: str, exported: str, dataset: PackedDataset
) -> None:
    shards = [str(file) for file in sorted(Path(exported).glob("*.tar"))]
    samples = list(webdataset.WebDataset(shards, shardshuffle=False).decode("pil"))
    assert [sample["__key__"] for sample in samples] == [dataset.index.key(row) for row in range(33)]
    reader = ArchiveReader(labels)
    for row, sample in enumerate(samples):
        assert set(sample) == {
            "__key__",
            "__url__",
            "__local_path__",
            "jpg",
            "cls",
            "idx.npy",
            "dq.npy",
            "tail.npy",
        }
        assert sample["cls"] == dataset.index.labels_N[row]
        for name, values in stored(reader, row).items():
            assert sample[name].dtype == values.dtype
            assert (sample[name] == values).all()
        image = Image.open(io.BytesIO(dataset.image_bytes(row))).convert("RGB")
        assert (np.asarray(sample["jpg"]) == np.asarray(image)).all()


def test_hugging_face_datasets_reads_an_export_as_it_is(
    labels: str, exported: str, dataset: PackedDataset, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    files = sorted(str(file) for file in Path(exported).glob("*.tar"))
    found = datasets.load_dataset("webdataset", data_files=files, split="train", cache_dir=str(tmp_path))
    reader = ArchiveReader(labels)
    assert [row["__key__"] for row in found] == [dataset.index.key(row) for row in range(33)]
    for row, sample in enumerate(found):
        assert sample["cls"] == dataset.index.labels_N[row]
        for name, values in stored(reader, row).items():
            assert np.array_equal(sample[name], values)
        image = Image.open(io.BytesIO(dataset.image_bytes(row))).convert("RGB")
        assert np.array_equal(np.asarray(sample["jpg"].convert("RGB")), np.asarray(image))


@pytest.mark.parametrize("format_", ["parquet", "parquet-images"])
def test_hugging_face_datasets_reads_parquet(
    format_: str, labels: str, data: str, dataset: PackedDataset, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    assert main(["export", labels, str(tmp_path / "p"), "--data", data, "--format", format_]) == 0
    files = sorted(str(file) for file in (tmp_path / "p").glob("*.parquet"))
    found = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )
    reader, names = ArchiveReader(labels), ("class_ids", "logits", "tail")
    if format_ == "parquet":
        assert len(found) == 33 * 3
        for one in found:
            label = reader.lookup(np.array([one["row"]]), np.array([one["view"]]))
            assert [one[name] for name in names] == [part[0].tolist() for part in label]
            assert one["key"] == dataset.index.key(one["row"])
        return
    assert isinstance(found.features["image"], datasets.Image)
    assert found.features["label"].names == list(CLASSES)
    for row, one in enumerate(found):
        assert (one["key"], one["label"], one["views"]) == (
            dataset.index.key(row),
            dataset.index.labels_N[row],
            [0, 1, 2],
        )
        label = reader.lookup(np.full(3, row), np.arange(3))
        assert [one[name] for name in names] == [part.tolist() for part in label]
        image = Image.open(io.BytesIO(dataset.image_bytes(row))).convert("RGB")
        assert np.array_equal(np.asarray(one["image"].convert("RGB")), np.asarray(image))


@pytest.mark.parametrize("change", [{"values": "float32"}, {"topk": len(CLASSES)}])
def test_every_kind_of_label_is_exported_and_imported(change: dict, data: str, tmp_path: Path) -> None:
    out = tmp_path / "labels"
    assert main(extract_flags(data, out, **change)) == 0
    assert main(["export", str(out), str(tmp_path / "tars"), "--data", data]) == 0
    archive, export = ArchiveReader(str(out)), open_labels(str(tmp_path / "tars"))
    for view in (0, 1, 2, 1):
        for ours, theirs in zip(archive.labels(4, view), export.labels(4, view), strict=True):
            assert torch.equal(ours, theirs)
    assert main(["import", str(tmp_path / "tars"), str(tmp_path / "back")]) == 0
    assert labels_tree(tmp_path / "back") == labels_tree(out)


def test_an_export_of_before_is_read_and_imported(tmp_path: Path) -> None:
    """tests/golden/export-v1 was written by the release before version 2, with what it read beside it."""
    golden = Path(__file__).parents[1] / "golden"
    export, expected = (
        open_labels(str(golden / "export-v1")),
        json.loads((golden / "export-v1.json").read_text()),
    )
    for _ in range(2):  # the second time without hashing
        for place, label in expected.items():
            shard, view = map(int, place.split("/"))
            assert [part.tolist() for part in export.labels(shard, view)] == label
    assert main(["import", str(golden / "export-v1"), str(tmp_path / "archive")]) == 0
    archive = ArchiveReader(str(tmp_path / "archive"))
    for place, label in expected.items():
        assert [part.tolist() for part in archive.labels(*map(int, place.split("/")))] == label


def test_import_gives_back_the_archive_byte_for_byte(labels: str, exported: str, tmp_path: Path) -> None:
    assert main(["import", exported, str(tmp_path / "back")]) == 0
    assert labels_tree(tmp_path / "back") == labels_tree(labels)


def test_some_views_are_exported_and_imported(labels: str, data: str, tmp_path: Path) -> None:
    assert main(["export", labels, str(tmp_path / "some"), "--data", data, "--views", "2:3"]) == 0
    assert main(["import", str(tmp_path / "some"), str(tmp_path / "back")]) == 0
    reader = ArchiveReader(str(tmp_path / "back"))
    assert reader.views == [2]
    assert reader.spec.fingerprint == ArchiveReader(labels).spec.fingerprint
    assert main(["export", labels, str(tmp_path / "odd"), "--data", data, "--views", "1:3"]) == 0
    assert main(["import", str(tmp_path / "odd"), str(tmp_path / "no")]) == 2


@pytest.mark.slow
def test_a_student_learns_the_same_from_tars_step_for_step(
    labels: str, exported: str, data: str, tmp_path: Path
) -> None:
    losses = []
    for name, where, what in (("archive", data, labels), ("tars", exported, exported)):
        flags = {
            "data": where,
            "labels": what,
            "output": tmp_path / name,
            "model": "deit_tiny_distilled_patch16_224",
            "distillation": "soft",
            "batch-size": 8,
            "steps": 6,
            "log-interval": 2,
        }
        assert student_main(["train", *(f"--{flag}={value}" for flag, value in flags.items())]) == 0
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        losses.append([(line["loss"], line["loss_distillation"]) for line in lines[:6]])
    assert losses[0] == losses[1]


def test_an_export_of_another_dataset_is_refused(exported: str, tmp_path: Path) -> None:
    source = write_class_folders(tmp_path / "images", per_class=10)
    assert main(["pack", str(source), str(tmp_path / "data"), "--shard-size", "8"]) == 0
    with pytest.raises(ArchiveError, match="labels dataset"):
        open_labels(exported).check_replay(PackedDataset(str(tmp_path / "data")).info)


def test_an_export_survives_pickling_and_is_not_written_over(labels: str, exported: str, data: str) -> None:
    assert pickle.loads(pickle.dumps(open_labels(exported))).views == [0, 1, 2]
    assert main(["export", labels, exported, "--data", data]) == 2


def test_parquet_holds_every_label(labels: str, data: str, dataset: PackedDataset, tmp_path: Path) -> None:
    assert main(["export", labels, str(tmp_path / "p"), "--data", data, "--format", "parquet"]) == 0
    table = pq.read_table(tmp_path / "p").sort_by([("row", "ascending"), ("view", "ascending")])
    assert table.num_rows == 33 * 3
    reader = ArchiveReader(labels)
    for place in (0, 40, 98):
        row, view = divmod(place, 3)
        found = table.slice(place, 1).to_pylist()[0]
        label = [part[row % SHARD_SIZE].tolist() for part in reader.labels(row // SHARD_SIZE, view)]
        assert [found[name] for name in ("class_ids", "logits", "tail")] == label
        assert (found["key"], found["view"]) == (dataset.index.key(row), view)


def test_tables_are_not_mixed_with_others(labels: str, data: str, tmp_path: Path) -> None:
    (tmp_path / "labels-000009.parquet").write_bytes(b"")
    assert main(["export", labels, str(tmp_path), "--data", data, "--format", "parquet"]) == 2


@pytest.mark.slow
def test_units_of_two_sizes_are_not_imported_together(exported: str, data: str, tmp_path: Path) -> None:
    assert main(extract_flags(data, tmp_path / "other", views_per_unit=3)) == 0
    before = tree(tmp_path / "other")
    assert main(["import", exported, str(tmp_path / "other")]) == 2
    assert main(extract_flags(data, tmp_path / "other", views_per_unit=None, extends=tmp_path / "other")) == 0
    assert tree(tmp_path / "other") == before


@pytest.mark.slow
def test_archives_made_apart_are_merged(data: str, labels: str, tmp_path: Path) -> None:
    for name, views in (("a", "0:2"), ("b", "2:3")):
        assert main(extract_flags(data, tmp_path / name, views=views)) == 0
    assert main(["merge", str(tmp_path / "ab"), str(tmp_path / "b"), str(tmp_path / "a")]) == 0
    assert labels_tree(tmp_path / "ab") == labels_tree(labels)
    assert main(["merge", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert labels_tree(tmp_path / "a") == labels_tree(labels)


@pytest.mark.slow
def test_archives_of_two_requests_are_not_merged(
    data: str, labels: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(extract_flags(data, tmp_path / "other", topk=1)) == 0
    assert main(["merge", str(tmp_path / "both"), labels, str(tmp_path / "other")]) == 2
    assert "labels.k 2, not 1" in capsys.readouterr().err


def test_a_damaged_unit_is_not_merged(labels: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(labels, tmp_path / "bad")
    (tmp_path / "bad/labels.zarr/idx/c/1/0/0").write_bytes(b"bad")
    assert main(["merge", str(tmp_path / "both"), str(tmp_path / "bad")]) == 2
    assert "unit 00001-000" in capsys.readouterr().err
    assert not (tmp_path / "both" / "manifest.json").exists()


@pytest.mark.slow
def test_more_views_extend_an_archive_that_stays_as_it_is(data: str, labels: str, tmp_path: Path) -> None:
    assert main(extract_flags(data, tmp_path / "old", views="0:2")) == 0
    before = tree(tmp_path / "old")
    flags = extract_flags(data, tmp_path / "new", views_per_unit=None, extends=tmp_path / "old")
    assert main(flags) == 0
    assert tree(tmp_path / "old") == before
    new, whole = ArchiveReader(str(tmp_path / "new")), ArchiveReader(labels)
    assert (new.views, new.spec.fingerprint) == (whole.views, whole.spec.fingerprint)
    assert list(new.manifest.extends) == ["../old"]
    assert not (tmp_path / "new/labels.zarr/idx/c/0/0/0").exists()
    for shard in range(5):
        for view in range(3):
            for ours, theirs in zip(new.labels(shard, view), whole.labels(shard, view), strict=True):
                assert torch.equal(ours, theirs)
    assert verify(str(tmp_path / "new"), "full", silent) == []
    assert main(["merge", str(tmp_path / "one"), str(tmp_path / "new")]) == 0
    assert labels_tree(tmp_path / "one") == labels_tree(labels)
    (tmp_path / "new/manifest.json").write_bytes(b"{}")
    assert main(["repair", str(tmp_path / "new")]) == 0
    assert ArchiveReader(str(tmp_path / "new")).manifest.to_bytes() == new.manifest.to_bytes()
    assert main(extract_flags(data, tmp_path / "new", views_per_unit=None)) == 0
    assert ArchiveReader(str(tmp_path / "new")).manifest.to_bytes() == new.manifest.to_bytes()
    (tmp_path / "old/labels.zarr/dq/c/3/0/0").write_bytes(b"bad")
    with pytest.raises(ArchiveError, match="unit 00003-000"):
        ArchiveReader(str(tmp_path / "new")).labels(3, 0)


@pytest.mark.slow
def test_more_image_shards_extend_an_archive(data: str, labels: str, tmp_path: Path) -> None:
    """A dataset that begins with the same full shards: only the new shards' units are computed."""
    more = write_class_folders(tmp_path / "images", per_class=15)
    grown = str(tmp_path / "grown")
    assert main(["pack", str(more), grown, "--shard-size", str(SHARD_SIZE), "--extends", data]) == 0
    old, new = PackedDataset(data), PackedDataset(grown)
    assert [shard.sha256 for shard in new.info.shards[:4]] == [shard.sha256 for shard in old.info.shards[:4]]
    assert len(new) == 45
    assert len({new.index.key(row) for row in range(45)}) == 45
    out = tmp_path / "out"
    assert main(extract_flags(grown, out, extends=labels, views_per_unit=None)) == 0
    reader, before = ArchiveReader(str(out)), ArchiveReader(labels)
    ((_, elsewhere),) = reader.manifest.extends.items()
    assert {receipt.unit.shard for receipt in elsewhere} == {0, 1, 2, 3}
    assert {receipt.unit.shard for receipt in reader.manifest.receipts} == {4, 5}
    for ours, theirs in zip(reader.labels(2, 1), before.labels(2, 1), strict=True):
        assert torch.equal(ours, theirs)
    whole = tmp_path / "whole"
    assert main(extract_flags(grown, whole)) == 0
    for shard in range(6):
        for ours, theirs in zip(
            reader.labels(shard, 2), ArchiveReader(str(whole)).labels(shard, 2), strict=True
        ):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"topk": 1}, "labels.k 2, not 1"), ({"views_per_unit": 3}, "views_per_unit 2, not 3")],
)
def test_another_request_does_not_extend(
    change: dict, message: str, data: str, labels: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(extract_flags(data, tmp_path / "new", extends=labels, **change)) == 2
    assert message in capsys.readouterr().err


def test_an_archive_that_is_finished_has_no_unfinished_files(labels: str, tmp_path: Path) -> None:
    """A worker that is killed while it writes leaves one, and other workers end the run."""
    out = tmp_path / "archive"
    shutil.copytree(labels, out)
    ended = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    partial = out / f"labels.zarr/idx/c/1/0/0.partial-{socket.gethostname()}-{int(ended.stdout)}-00f2e311"
    partial.write_bytes(b"cut")
    ArchiveWriter.open(Store(str(out)), ArchiveReader(labels).spec, create=False).finish()
    assert tree(out) == tree(labels)
