import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from support import (
    CLASSES,
    IMAGES_PER_CLASS,
    IMG_SIZE,
    SHARD_SIZE,
    TEACHER,
    K,
    built_teacher,
    extract_flags,
    teacher_checkpoint,
    tree,
)

from pipelines.cli import main
from teacher_cache.archive.format.documents import open_document
from teacher_cache.archive.format.layout import Layout, Unit
from teacher_cache.archive.format.spec import ArchiveSpec
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.archive.readers.source import view_ranges
from teacher_cache.archive.verify import verify
from teacher_cache.archive.writers.write import ArchiveWriter
from teacher_cache.batches.batch import view_batch
from teacher_cache.batches.rendered import ViewIds
from teacher_cache.batches.renderer import BatchRenderer
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import ArchiveError, InputError
from teacher_cache.exact.canonical import canonical_json, seal, unseal
from teacher_cache.labels.arrays import LabelArrays
from teacher_cache.labels.topk import labels_from_logits
from teacher_cache.program.progress import silent
from teacher_cache.storage.store import Store

NUM_ROWS = len(CLASSES) * IMAGES_PER_CLASS
DOCS = Path(__file__).parents[2] / "docs" / "archive-format.md"


@pytest.fixture
def copy(labels: str, tmp_path: Path) -> Path:
    """A copy of the archive to damage."""
    for name, data in tree(labels).items():
        (tmp_path / "copy" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / name).write_bytes(data)
    return tmp_path / "copy"


def found(archive: str | Path, level: str) -> list[str]:
    """Return what `verify` finds, as text."""
    return [problem.what for problem in verify(str(archive), level, silent)]


def test_the_layout_on_disk_is_pinned(labels: str) -> None:
    objects = {
        f"labels.zarr/{array}/c/{shard}/{block}{rank}"
        for array, rank in (("idx", "/0"), ("dq", "/0"), ("tail", ""))
        for shard in range(5)
        for block in range(2)
    }
    receipts = {f"receipts/{shard:05d}-{block:03d}.json" for shard in range(5) for block in range(2)}
    affinity = {f"labels.zarr/affinity_{array}" for array in ("idx/c/0/0", "dq/c/0/0", "tail/c/0")}
    arrays = ("idx", "dq", "tail", "affinity_idx", "affinity_dq", "affinity_tail")
    zarr_documents = {f"labels.zarr/{array}zarr.json" for array in ("", *(f"{name}/" for name in arrays))}
    documents = {"spec.json", "manifest.json", "receipts/affinity.json", "receipts/agreement.json"}
    figures = {"figures/labels.json", "figures/rows.parquet"}
    assert set(tree(labels)) == objects | affinity | receipts | zarr_documents | documents | figures


def test_labels_are_the_teachers_of_the_very_views(labels: str, dataset: PackedDataset) -> None:
    reader = ArchiveReader(labels)
    teacher = built_teacher(
        TEACHER,
        classes=dataset.info.class_list,
        img_size=IMG_SIZE,
        checkpoint=teacher_checkpoint(),
    )
    renderer = BatchRenderer(dataset, reader.recipe)
    for row in (0, 9, 32):
        (batch,) = map(view_batch, renderer.render([ViewIds(np.array([row]), np.array([2]))]))
        expected = labels_from_logits(teacher.logits(batch.pixels("cpu")), K)
        found = reader.labels(row // SHARD_SIZE, 2)
        place = row % SHARD_SIZE
        assert found.class_ids_BK[place].tolist() == expected.class_ids_BK[0].tolist()
        assert found.relative_logits_BK[place, 1].item() == pytest.approx(
            expected.relative_logits_BK[0, 1].item(), abs=1 / 31
        )
        assert found.tail_B[place].item() == pytest.approx(expected.tail_B[0].item(), rel=1 / 31, abs=2e-7)


def test_the_documents_ten_lines_read_a_view_with_plain_zarr(
    labels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snippet, _ = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert len([line for line in snippet.splitlines() if line]) <= 10
    (tmp_path / "labels").symlink_to(labels)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(snippet, names)
    reader = ArchiveReader(labels)
    for shard in range(5):
        ours = reader.labels(shard, 1)
        rows = slice(shard * SHARD_SIZE, shard * SHARD_SIZE + len(ours.tail_B))
        np.testing.assert_array_equal(names["class_ids"][rows], ours.class_ids_BK)
        kept = (1 - ours.tail_B.double())[:, None] * ours.relative_logits_BK.double().softmax(1)
        np.testing.assert_allclose(names["probabilities"][rows], kept, rtol=1e-6)
    assert (names["class_ids"][NUM_ROWS:] == 65_535).all()


def test_the_labels_of_the_tests_differ(labels: str) -> None:
    """Or no test here could see a mix-up."""
    reader = ArchiveReader(labels)
    seen = {
        str([tensor[row].tolist() for tensor in reader.labels(0, view)])
        for view in range(3)
        for row in range(8)
    }
    assert len(seen) > 12


def test_an_undamaged_archive_has_no_problems(labels: str) -> None:
    assert found(labels, "quick") == []
    assert found(labels, "full") == []


@pytest.mark.slow
def test_every_file_that_is_damaged_is_found(copy: Path) -> None:
    for name, data in tree(copy).items():
        damaged = bytearray(data)
        damaged[len(data) // 3] ^= 4
        (copy / name).write_bytes(damaged)
        try:
            problems = found(copy, "full")
        except ArchiveError as error:
            problems = [str(error)]
        assert problems, name
        (copy / name).write_bytes(data)
    assert found(copy, "full") == []


@pytest.mark.parametrize(
    "name", ["labels.zarr/idx/c/2/1/0", "labels.zarr/dq/c/2/1/0", "labels.zarr/tail/c/2/1"]
)
def test_a_damaged_unit_is_found_and_named_when_it_is_read(name: str, copy: Path) -> None:
    data = bytearray((copy / name).read_bytes())
    data[7] ^= 1
    (copy / name).write_bytes(data)
    reader = ArchiveReader(str(copy))
    reader.labels(2, 1)
    with pytest.raises(
        ArchiveError, match=r"unit 00002-001 .* is damaged: .*sha256(.|\n)*teacher-cache repair"
    ):
        reader.labels(2, 2)


def test_a_missing_object_is_found_quickly_and_named(copy: Path) -> None:
    (copy / "labels.zarr/dq/c/1/0/0").unlink()
    assert found(copy, "quick") == ["labels.zarr/dq/c/1/0/0 has no bytes"]
    with pytest.raises(ArchiveError, match="unit 00001-000 .*dq/c/1/0/0 is missing"):
        ArchiveReader(str(copy)).labels(1, 0)


def test_the_remedy_for_a_damaged_unit_works(copy: Path, data: str, labels: str) -> None:
    (copy / "labels.zarr/idx/c/1/0/0").write_bytes(b"other")
    flags = ["--data", data, "--teacher", TEACHER, "--checkpoint", teacher_checkpoint()]
    assert main(["repair", str(copy), *flags]) == 0
    assert tree(copy) == tree(labels)


def test_a_foreign_file_is_found(copy: Path) -> None:
    (copy / "labels.zarr" / "evil.py").write_text("")
    assert found(copy, "quick") == ["labels.zarr/evil.py is not in the manifest"]


def test_labels_outside_their_range_are_found(copy: Path) -> None:
    """A manifest that vouches for wrong labels is the one thing hashes cannot find."""
    reader = ArchiveReader(str(copy))
    writer = ArchiveWriter(Store(copy), reader.spec)
    unit = Unit(0, 0, 0, 2)
    idx = np.full((8, 2, K), 3, np.uint16)
    wrong = LabelArrays(idx, np.full((8, 2, K), 255, np.uint8), np.zeros((8, 2), np.uint8))
    writer.put_objects(unit, reader.spec.layout.encode_unit(wrong), 8, "0" * 64, replace=True)
    writer.finish()
    assert found(copy, "full") == [
        "unit 00000-000: a class id is not below the number of classes, or a label is missing",
        "unit 00000-000: a label has one class twice",
        "unit 00000-000: a first rank is not its own reference",
        "unit 00000-000: a tail is not what its label's last rank allows",
    ]


def test_views_that_are_not_there_are_said(labels: str) -> None:
    reader = ArchiveReader(labels)
    assert reader.views == [0, 1, 2]
    with pytest.raises(ArchiveError, match=r"no labels of view 3 of shard 0(.|\n)*views 0:3"):
        reader.labels(0, 3)


def test_an_unfinished_archive_is_refused(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    with pytest.raises(ArchiveError, match=r"is not finished(.|\n)*run the same extract again"):
        ArchiveReader(str(copy))


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="is not an archive"):
        ArchiveReader(str(tmp_path))


def test_an_unknown_version_is_refused(copy: Path) -> None:
    document = {**unseal((copy / "manifest.json").read_bytes()), "version": 2}
    (copy / "manifest.json").write_bytes(seal(document))
    with pytest.raises(ArchiveError, match=r"version 2(.|\n)*reads teacher-cache-archive version 1"):
        ArchiveReader(str(copy))


def test_a_spec_comes_back_and_keeps_its_fingerprint(labels: str) -> None:
    document = open_document((Path(labels) / "spec.json").read_bytes(), "spec")
    spec = ArchiveSpec.from_dict(json.loads(json.dumps(document["spec"])))
    assert canonical_json(spec.to_dict()) == canonical_json(document["spec"])
    assert spec.fingerprint == document["fingerprint"] == ArchiveReader(labels).spec.fingerprint


def test_no_document_holds_a_path_a_host_or_a_clock(labels: str, tmp_path: Path, data: str) -> None:
    assert main(extract_flags(data, tmp_path / "elsewhere")) == 0
    assert tree(tmp_path / "elsewhere") == tree(labels)


def test_a_reader_survives_pickling(labels: str) -> None:
    reader = pickle.loads(pickle.dumps(ArchiveReader(labels)))
    assert reader.views == [0, 1, 2]


def test_units_are_whole_blocks() -> None:
    layout = Layout(num_shards=2, rows_per_shard=8, views_per_unit=4, k=2, num_classes=10)
    assert list(layout.units(4, 10)) == [
        Unit(0, 1, 4, 8),
        Unit(1, 1, 4, 8),
        Unit(0, 2, 8, 10),
        Unit(1, 2, 8, 10),
    ]
    with pytest.raises(InputError, match="begin at a multiple of 4"):
        layout.blocks(2, 8)
    with pytest.raises(InputError, match="holds no view"):
        layout.blocks(4, 4)


@pytest.mark.parametrize("num_classes", [3, 70_000])
@pytest.mark.parametrize("k", [1, 3])
def test_a_unit_comes_back_padded_with_fill(num_classes: int, k: int) -> None:
    layout = Layout(3, 8, 4, k, num_classes)
    rng = np.random.default_rng(0)
    arrays = LabelArrays(
        rng.integers(0, num_classes, (5, 3, k)).astype("u4"),
        rng.integers(0, 256, (5, 3, k), np.uint8),
        np.full((5, 3), 255, np.uint8),
    )
    objects = layout.encode_unit(arrays)
    assert layout.encode_unit(arrays) == objects
    whole = layout.decode_unit(objects)
    for stored, given in zip(whole, arrays, strict=True):
        np.testing.assert_array_equal(stored[:5, :3], given)
        assert (stored[5:] == np.iinfo(stored.dtype).max).all()
        assert (stored[:, 3:] == np.iinfo(stored.dtype).max).all()
    read = lambda start, stop: objects["idx"][start:stop]  # noqa: E731
    places = layout.spans(read, len(objects["idx"]))
    one = layout.decode_view("idx", read, places, Unit(1, 2, 8, 11), 9)
    np.testing.assert_array_equal(one[:5], arrays.idx[:, 1])


def test_ranges_are_said_shortly() -> None:
    assert view_ranges([0, 1, 2, 8, 9, 12]) == "0:3, 8:10, 12:13"
    assert view_ranges([]) == "none"
