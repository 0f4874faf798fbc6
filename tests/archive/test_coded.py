"""Archives of labels by components: written, read from the page, verified, mended, joined and exported."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorstore
import torch
import zarr
from support import CLASSES, SHARD_SIZE, extract_flags, labels_tree, teacher_checkpoint, tree

from pipelines.cli import main
from teacher_cache.archive.format.layout import Layout
from teacher_cache.archive.format.manifest import Manifest
from teacher_cache.archive.format.receipts import digests_of
from teacher_cache.archive.open import open_labels
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.archive.writers.write import ArchiveWriter
from teacher_cache.errors import ArchiveError, DamagedError
from teacher_cache.labels.tails import dense_probabilities
from teacher_cache.labels.topk import Basis

DOCS = Path(__file__).parents[2] / "docs/archive-format.md"
Capture = pytest.CaptureFixture[str]
CODED = {"topk": 1, "components": 2, "views": "0:4"}


@pytest.fixture(scope="module")
def coded(data: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    target = str(tmp_path_factory.mktemp("coded") / "archive")
    assert main(extract_flags(data, target, **CODED)) == 0
    return target


@pytest.fixture
def copy(coded: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(coded, tmp_path / "copy"))


def basis_of_archive(url: str | Path) -> Basis:
    found = ArchiveReader(str(url)).affinity
    assert isinstance(found, Basis)
    return found


def test_its_files_are_pinned(coded: str) -> None:
    spec = json.loads(Path(coded, "spec.json").read_text())["spec"]
    assert spec["labels"]["components"] == {
        "codes": 2,
        "size": 0.2465,
        "directions": 2,
        "max_views": 528,
        "fit_temperature": 4.0,
        "fit_least": 0.2,
    }
    assert spec["labels"]["affinity"] is None
    manifest = json.loads(Path(coded, "manifest.json").read_text())
    assert set(manifest["basis"]) == {"basis", "basis_step", "basis_error"}
    assert "affinity" not in manifest
    names = {str(file.relative_to(coded)) for file in Path(coded).rglob("*") if file.is_file()}
    assert {"receipts/basis.json", "labels.zarr/basis/c/0/0", "labels.zarr/basis_step/c/0"} <= names
    assert {"labels.zarr/codes/c/0/0/0", "labels.zarr/idx/c/0/0/0", "labels.zarr/tail/c/0/0"} <= names
    assert not any("dq" in name or "affinity" in name for name in names)


def test_the_pages_lines_read_a_view_with_plain_zarr(
    coded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, snippet = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    (tmp_path / "labels").symlink_to(coded)
    monkeypatch.chdir(tmp_path)
    ours = ArchiveReader(coded)
    for row in range(0, 33, 2):
        names: dict = {}
        exec(snippet.replace("1, 0\n", f"1, {row}\n"), names)
        labels = ours.labels(row // SHARD_SIZE, 1)
        expected = dense_probabilities(labels, len(CLASSES), ours.affinity)[row % SHARD_SIZE]
        np.testing.assert_allclose(names["probabilities"], expected.numpy(), rtol=1e-4, atol=1e-8)


def test_it_is_sound_and_status_and_figures_show_it(coded: str, capsys: Capture) -> None:
    assert main(["verify", coded, "--level", "full"]) == 0
    assert main(["status", coded]) == 0
    assert Path(coded, "figures/labels.json").exists()
    assert "basis" not in capsys.readouterr().err


@pytest.mark.parametrize("format_", ["webdataset", "parquet", "parquet-images"])
def test_exports_have_codes_and_basis(format_: str, coded: str, data: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["export", coded, str(out), "--data", data, "--format", format_]) == 0
    ours, numbers = basis_of_archive(coded), np.load(out / "basis.npy", allow_pickle=False)
    assert numbers.shape == (3, 2 + len(CLASSES))
    np.testing.assert_array_equal(numbers[1:, 2:], ours.directions_MC.numpy())
    if format_ == "webdataset":
        export = open_labels(str(out))
        for part, wanted in zip(export.affinity, ours, strict=True):
            assert torch.equal(part, wanted)
        for view in (0, 2, 0):
            pairs = zip(export.labels(4, view), ArchiveReader(coded).labels(4, view), strict=True)
            assert all(torch.equal(found, wanted) for found, wanted in pairs)
        assert main(["import", str(out), str(tmp_path / "back")]) == 0
        assert labels_tree(tmp_path / "back") == labels_tree(coded)
    else:
        table = pq.read_table(next(out.glob("*-000004.parquet")))
        codes = np.array(table["codes"].to_pylist()).reshape(-1, 2)
        expected = ArchiveReader(coded).labels(4, 0).codes_BR
        assert expected is not None
        np.testing.assert_array_equal(codes[:1], expected[:1].numpy())


def with_teacher(data: str) -> list[str]:
    return ["--data", data, "--teacher", "python:tiny_teacher:build", "--checkpoint", teacher_checkpoint()]


@pytest.mark.slow
def test_damage_is_found_and_mended_to_the_byte(copy: Path, coded: str, data: str, capsys: Capture) -> None:
    (copy / "labels.zarr/basis/c/0/0").write_bytes(b"other")
    (copy / "labels.zarr/codes/c/2/0/0").write_bytes(b"other")
    with pytest.raises(ArchiveError, match=r"the basis of archive .* is damaged"):
        _ = ArchiveReader(str(copy)).affinity
    assert main(["repair", str(copy), *with_teacher(data)]) == 0
    out = capsys.readouterr().out
    assert "computed again: basis" in out
    assert "computed again: 00002-000" in out
    assert tree(copy) == tree(coded)


def test_a_basis_that_comes_out_otherwise_is_never_put_in_its_place(
    copy: Path, data: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Codes mean nothing in another basis, as another kind of device may give."""
    from pipelines.archive import repair

    (copy / "labels.zarr/basis_step/c/0").unlink()
    before = tree(copy)
    shared_arrays = repair.shared_arrays

    def other(*given: object) -> object:
        found = shared_arrays(*given)
        return found._replace(basis=-found.basis)

    monkeypatch.setattr(repair, "shared_arrays", other)
    assert main(["repair", str(copy), *with_teacher(data)]) == 2
    assert "another basis of components" in capsys.readouterr().err
    assert tree(copy) == before


def test_numbers_that_no_basis_has_are_refused(copy: Path) -> None:
    reader = ArchiveReader(str(copy))
    arrays = reader.shared_arrays()
    for change in ({"basis": arrays.basis * np.float16(np.nan)}, {"basis_error": arrays.basis_error * -1}):
        reader.shared_arrays = lambda change=change: arrays._replace(**change)  # type: ignore[method-assign]
        with pytest.raises(DamagedError, match="a number that no basis has"):
            reader.checked_shared()


@pytest.mark.slow
def test_units_are_joined_only_in_one_basis(coded: str, data: str, tmp_path: Path, capsys: Capture) -> None:
    later = tmp_path / "later"
    assert main(extract_flags(data, later, **{**CODED, "views": "4:6"})) == 0
    assert main(["merge", str(tmp_path / "both"), coded, str(later)]) == 0
    assert ArchiveReader(str(tmp_path / "both")).views == list(range(6))
    writer_of_other = tmp_path / "other"
    shutil.copytree(later, writer_of_other)
    reader = ArchiveReader(str(writer_of_other))
    arrays = reader.shared_arrays()
    objects = reader.spec.layout.encode_shared(arrays._replace(basis=-arrays.basis))
    for array, content in objects.items():
        (writer_of_other / reader.spec.layout.shared_name(array)).write_bytes(content)
    manifest = Manifest(reader.spec, digests_of(objects), reader.manifest.receipts)
    (writer_of_other / "manifest.json").write_bytes(manifest.to_bytes())
    assert main(["merge", str(tmp_path / "mixed"), coded, str(writer_of_other)]) == 2
    assert "another basis of components" in capsys.readouterr().err
    assert ArchiveWriter(reader.store, reader.spec).shared != digests_of(objects)


@pytest.mark.slow
def test_another_archive_of_more_views_takes_the_basis_along(coded: str, data: str, tmp_path: Path) -> None:
    more = tmp_path / "more"
    assert main(extract_flags(data, more, **{**CODED, "views": "0:6"}, extends=coded)) == 0
    assert basis_of_archive(more).mean_C.equal(basis_of_archive(coded).mean_C)
    alone = tmp_path / "alone"
    assert main(extract_flags(data, alone, **{**CODED, "views": "0:6"})) == 0
    for shard in range(5):
        for view in range(6):
            pairs = zip(
                ArchiveReader(str(more)).labels(shard, view),
                ArchiveReader(str(alone)).labels(shard, view),
                strict=True,
            )
            assert all(torch.equal(ours, theirs) for ours, theirs in pairs)


@pytest.mark.slow
def test_a_followed_job_and_a_catalog_give_the_same_bytes(coded: str, data: str, tmp_path: Path) -> None:
    followed = tmp_path / "followed"
    assert main([*extract_flags(data, followed, **CODED), "--followed"]) == 0
    assert tree(followed) == tree(coded)
    shelf = tmp_path / "shelf"
    shutil.copytree(coded, shelf / "archive")
    assert main(["catalog", str(shelf)]) == 0
    taken = tmp_path / "taken"
    assert main(extract_flags(data, taken, **CODED, catalog=str(shelf))) == 0
    assert tree(taken) == tree(coded)


@pytest.mark.slow
def test_a_student_learns_from_it_with_the_default_tail(coded: str, data: str, tmp_path: Path) -> None:
    from student.cli import main as train

    flags = ["--model=deit_tiny_distilled_patch16_224", "--epochs=1", "--batch-size=8", "--device=cpu"]
    words = [f"--data={data}", f"--labels={coded}", f"--output={tmp_path / 'run'}", "--distillation=soft"]
    assert train(["train", *words, *flags]) == 0


def test_plan_tells_its_bytes(data: str, tmp_path: Path, capsys: Capture) -> None:
    words = extract_flags(data, tmp_path / "none", **CODED)[1:]
    assert main(["plan", *words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["label_bytes"] > 0
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"components": 2, "values": "float32"}, r"--components 2 with --values float32"),
        ({"components": 0}, r"components"),
    ],
)
def test_what_does_not_fit_is_refused(
    change: dict, message: str, data: str, tmp_path: Path, capsys: Capture
) -> None:
    assert main(extract_flags(data, tmp_path / "x", **change)) == 2
    assert message in capsys.readouterr().err


def test_labels_of_all_classes_need_no_codes(data: str, tmp_path: Path) -> None:
    assert main(extract_flags(data, tmp_path / "all", topk=len(CLASSES), components=2, views="0:1")) == 0
    assert ArchiveReader(str(tmp_path / "all")).spec.labels.components is None


def test_the_documents_are_zarrs_own_and_chunks_are_turned(coded: str) -> None:
    layout: Layout = ArchiveReader(coded).spec.layout
    document = json.loads(Path(coded, "labels.zarr/codes/zarr.json").read_text())
    (sharding,) = document["codecs"]
    names = [codec["name"] for codec in sharding["configuration"]["codecs"]]
    assert names == ["transpose", "bytes", "blosc", "crc32c"]
    assert layout.arrays == ("idx", "codes", "tail")


@pytest.mark.slow
@pytest.mark.parametrize("array", ["codes", "basis", "basis_step", "basis_error"])
def test_other_zarr_libraries_read_the_same_numbers(array: str, coded: str) -> None:
    pytest.importorskip("zarrs")
    place = f"{coded}/labels.zarr/{array}"
    expected = zarr.open_array(place, mode="r")[...]
    kvstore = {"driver": "file", "path": f"{place}/"}
    found = tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result().read().result()
    np.testing.assert_array_equal(found, expected)
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        np.testing.assert_array_equal(zarr.open_array(place, mode="r")[...], expected)
