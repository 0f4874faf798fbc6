"""Looking after archives as a user does: repair, status, the teacher asked again, two runs at once."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from support import (
    IMG_SIZE,
    SHARD_SIZE,
    TEACHER,
    K,
    begun,
    built_teacher,
    extract_flags,
    forked,
    teacher_checkpoint,
    tree,
)

from pipelines.cli import main
from teacher_cache.archive.format.layout import Unit
from teacher_cache.archive.format.spec import ArchiveSpec
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.archive.writers.write import ArchiveWriter
from teacher_cache.batches.batch import view_batch
from teacher_cache.batches.rendered import ViewIds
from teacher_cache.batches.renderer import BatchRenderer
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import ArchiveError
from teacher_cache.labels.arrays import LabelArrays
from teacher_cache.labels.topk import labels_from_logits
from teacher_cache.storage.store import Store

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def copy(labels: str, tmp_path: Path) -> Path:
    shutil.copytree(labels, tmp_path / "copy")
    return tmp_path / "copy"


def repair(archive: Path, *flags: str) -> int:
    return main(["repair", str(archive), *flags])


def with_teacher(data: str) -> list[str]:
    return ["--data", data, "--teacher", TEACHER, "--checkpoint", teacher_checkpoint()]


@pytest.mark.soak
def test_faults_in_small_everything_holds() -> None:
    """The whole campaign, with fewer kills and flips: its exit code is 1 if one promise was broken."""
    command = [sys.executable, "-m", "benchmarks.faults", "--kills", "3", "--flips", "30"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = re.findall(r"│ (\S.*?)\s+│\s+(\d+) │\s+(\d+) │", done.stdout)
    assert len(counts) >= 17
    assert all(met == held for _, met, held in counts)


def test_a_sound_archive_needs_no_repair_and_is_not_touched(copy: Path, capsys: Capture) -> None:
    before = {file: file.stat().st_mtime_ns for file in copy.rglob("*")}
    assert repair(copy) == 0
    assert "no problems found, none left" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in copy.rglob("*")} == before


def test_documents_are_mended_without_the_teacher(copy: Path, labels: str, capsys: Capture) -> None:
    for name in ("spec.json", "receipts/00002-000.json", "receipts/affinity.json", "labels.zarr/zarr.json"):
        (copy / name).write_bytes(b"")
    assert repair(copy) == 0
    assert "4 problems found, none left" in capsys.readouterr().out
    assert tree(copy) == tree(labels)


@pytest.mark.slow
def test_only_the_damaged_unit_is_computed_again(copy: Path, data: str, labels: str, capsys: Capture) -> None:
    (copy / "labels.zarr/tail/c/4/1").unlink()
    untouched = (copy / "labels.zarr/tail/c/4/0").stat().st_mtime_ns
    assert repair(copy) == 2
    assert "00004-001" in capsys.readouterr().err
    assert repair(copy, *with_teacher(data), "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report == {
        "found": ["labels.zarr/tail/c/4/1 has no bytes"],
        "computed": ["00004-001"],
        "changed": [],
        "left": [],
    }
    assert tree(copy) == tree(labels)
    assert (copy / "labels.zarr/tail/c/4/0").stat().st_mtime_ns == untouched


@pytest.mark.slow
def test_the_affinity_is_calibrated_again(copy: Path, data: str, labels: str, capsys: Capture) -> None:
    (copy / "labels.zarr/affinity_dq/c/0/0").write_bytes(b"other")
    with pytest.raises(ArchiveError, match=r"class affinity of archive .* is damaged"):
        _ = ArchiveReader(str(copy)).affinity
    assert repair(copy, *with_teacher(data)) == 0
    assert "computed again: affinity" in capsys.readouterr().out
    assert tree(copy) == tree(labels)


def test_a_manifest_and_a_receipt_lost_together_are_mended(copy: Path, data: str, labels: str) -> None:
    (copy / "manifest.json").write_bytes(b"{}")
    (copy / "receipts/00003-000.json").unlink()
    assert repair(copy, *with_teacher(data)) == 0
    assert tree(copy) == tree(labels)


def test_a_finished_unit_that_is_damaged_is_not_forgotten(copy: Path, data: str, labels: str) -> None:
    """Extending, or any run that closes the archive again, leaves it in the manifest for repair to find."""
    (copy / "labels.zarr/tail/c/2/0").unlink()
    assert main(extract_flags(data, copy, views="2:3", views_per_unit=None)) == 0
    assert ArchiveReader(str(copy)).views == [0, 1, 2]
    assert repair(copy, *with_teacher(data)) == 0
    assert tree(copy) == tree(labels)


def test_a_damaged_spec_of_an_unfinished_archive_is_mended_by_extract(
    copy: Path, data: str, labels: str
) -> None:
    (copy / "manifest.json").unlink()
    (copy / "spec.json").write_bytes(b"")
    finished = (copy / "receipts/00000-000.json").stat().st_mtime_ns
    assert main(extract_flags(data, copy, topk=1)) == 2
    assert main(extract_flags(data, copy)) == 0
    assert (copy / "receipts/00000-000.json").stat().st_mtime_ns == finished
    assert tree(copy) == tree(labels)


@pytest.mark.parametrize("changes", [{"views_per_unit": 5000}, {"views": f"{2**20}:{2**20 + 2}"}])
def test_what_no_reader_would_take_is_not_written(changes: dict, data: str, tmp_path: Path) -> None:
    assert main(extract_flags(data, tmp_path / "out", **changes)) == 2
    assert tree(tmp_path) == {}


def test_a_unit_computed_by_another_teacher_is_not_mixed_in(
    copy: Path, data: str, tmp_path: Path, capsys: Capture
) -> None:
    weights = safetensors.torch.load_file(teacher_checkpoint())
    weights["head.weight"] += 1e-4
    safetensors.torch.save_file(weights, tmp_path / "other.safetensors")
    (copy / "labels.zarr/tail/c/4/1").unlink()
    other = str(tmp_path / "other.safetensors")
    assert repair(copy, "--data", data, "--teacher", TEACHER, "--checkpoint", other) == 2
    assert "the teacher's weights are" in capsys.readouterr().err


def test_a_foreign_file_is_left_and_said(copy: Path, capsys: Capture) -> None:
    (copy / "labels.zarr" / "evil.py").write_text("")
    assert repair(copy) == 1
    assert "left: labels.zarr/evil.py is not in the manifest" in capsys.readouterr().out
    assert (copy / "labels.zarr" / "evil.py").exists()


def test_an_unfinished_archive_is_extracted_on_not_repaired(copy: Path, capsys: Capture) -> None:
    (copy / "manifest.json").unlink()
    assert repair(copy) == 2
    assert "run the same extract again" in capsys.readouterr().err


def test_status_shows_shards_by_blocks(copy: Path, capsys: Capture) -> None:
    (copy / "receipts/00003-001.json").unlink()
    (copy / "labels.zarr/dq/c/1/0/0").unlink()
    assert main(["status", str(copy)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["views", "0:2", "█✗███"]
    assert lines[1].split() == ["views", "2:3", "███·█"]
    assert lines[2] == "█ 8 done, ▓ 0 elsewhere, · 1 missing, ✗ 1 damaged"
    assert main(["status", str(copy), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["finished"]
    assert found["states"][0] == ["done", "damaged", "done", "done", "done"]
    assert main(["status", str(copy.parent / "nowhere")]) == 2


def test_status_of_many_shards_fits_a_line() -> None:
    from pipelines.archive.status import Status, picture

    states = [["done"] * 900 + ["missing"] * 100]
    lines = list(picture(Status("0" * 64, False, 4, [4], states, 0, None), width=80))
    assert len(lines[0]) <= 80
    assert {"█", "·"} <= set(lines[0].plain)


def test_the_teacher_asked_again_agrees(labels: str, data: str, capsys: Capture) -> None:
    flags = ["verify", labels, "--level", "teacher", *with_teacher(data), "--num-views", "40", "--json"]
    assert main(flags) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"]
    assert found["views"] == 40
    assert found["top1"] == 1.0
    assert 0 < found["max_error"] < found["tolerance"] < 0.05


@pytest.mark.slow
def test_labels_that_are_not_the_teachers_are_found_by_asking(copy: Path, data: str, capsys: Capture) -> None:
    """Every hash is right, every label valid: views were mixed up before they were written."""
    reader = ArchiveReader(str(copy))
    writer = ArchiveWriter(Store(copy), reader.spec)
    for receipt in reader.receipts:
        arrays = reader.spec.layout.decode_unit(reader.objects(receipt))
        turned = LabelArrays(
            *(np.roll(part[: receipt.rows], 1, axis=0)[:, : len(receipt.unit.views)] for part in arrays)
        )
        objects = reader.spec.layout.encode_unit(turned)
        writer.put_objects(receipt.unit, objects, receipt.rows, receipt.keys_sha256, replace=True)
    writer.finish()
    assert main(["verify", str(copy), "--level", "full"]) == 0
    assert main(["verify", str(copy), "--level", "teacher", *with_teacher(data)]) == 1
    assert "the labels are NOT the teacher's" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags", [["--level", "teacher"], ["--level", "full", "--data", "x"], ["--num-views", "0"]]
)
def test_a_wrong_verify_is_said(flags: list[str], labels: str) -> None:
    assert main(["verify", labels, *flags]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("batch_sizes", [(64, 64), (64, 5)])
def test_two_extracts_at_once_are_harmless(batch_sizes: tuple[int, int], data: str, tmp_path: Path) -> None:
    """Also with other batch sizes, whose floats may differ: each unit is one writer's, whole."""
    out = tmp_path / "both"
    runs = [begun(main, extract_flags(data, out, batch_size=size)) for size in batch_sizes]
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0]
    assert main(["verify", str(out), "--level", "full"]) == 0
    assert ArchiveReader(str(out)).views == [0, 1, 2]


def _commit(out: str, spec: ArchiveSpec, value: int, turns: int) -> None:
    """Commit one unit again and again, with labels that tell the writer."""
    writer = ArchiveWriter(Store(out), spec)
    idx = np.broadcast_to(np.array([value, 2], np.uint16), (SHARD_SIZE, 2, K))
    dq = np.broadcast_to(np.array([0, value], np.uint8), (SHARD_SIZE, 2, K))
    arrays = LabelArrays(idx, dq, np.full((SHARD_SIZE, 2), 60 + value, np.uint8))
    for turn in range(turns):
        Store(out).delete(f"receipts/0000{turn % 2}-000.json") if value else None
        writer.commit(Unit(turn % 2, 0, 0, 2), arrays, "0" * 64)


@pytest.mark.slow
def test_a_unit_is_never_of_two_writers(labels: str, tmp_path: Path) -> None:
    """Objects and receipt are one writer's, however the two take turns."""
    spec = ArchiveReader(labels).spec
    out = str(tmp_path / "race")
    ArchiveWriter.open(Store(out), spec)
    runs = [forked.Process(target=_commit, args=(out, spec, value, 60)) for value in (0, 1)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    writer = ArchiveWriter(Store(out), spec)
    receipts = writer.receipts()
    assert len(receipts) == 2
    for receipt in receipts:
        for array, (digest, _) in receipt.objects.items():
            data = Store(out).get(spec.layout.object_name(array, receipt.unit))
            assert hashlib.sha256(data).hexdigest() == digest


@pytest.mark.slow
def test_exact_values_are_the_teachers_own(data: str, dataset: PackedDataset, tmp_path: Path) -> None:
    assert main(extract_flags(data, tmp_path / "exact", values="float32", topk=3)) == 0
    assert main(["verify", str(tmp_path / "exact"), "--level", "full"]) == 0
    reader = ArchiveReader(str(tmp_path / "exact"))
    assert reader.affinity is None
    teacher = built_teacher(
        TEACHER,
        classes=dataset.info.class_list,
        img_size=IMG_SIZE,
        checkpoint=teacher_checkpoint(),
    )
    (batch,) = map(
        view_batch, BatchRenderer(dataset, reader.recipe).render([ViewIds(np.arange(8, 16), np.full(8, 1))])
    )
    expected = labels_from_logits(teacher.logits(batch.pixels("cpu")), 3)
    found = reader.labels(1, 1)
    assert torch.equal(found.class_ids_BK, expected.class_ids_BK)
    torch.testing.assert_close(found.relative_logits_BK, expected.relative_logits_BK, rtol=1e-4, atol=1e-5)
    assert (found.tail_B == 0).all()
