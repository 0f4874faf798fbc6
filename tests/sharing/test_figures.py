"""Figures of an archive: equal to what a plain computation over dense labels says."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import extract_flags

from pipelines.cli import main
from teacher_cache.archive.figures.figures import figures_of, put_figures, rows_of
from teacher_cache.archive.figures.measure import measure
from teacher_cache.archive.figures.row_sums import sum_rows
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import ArchiveError
from teacher_cache.exact.canonical import seal, unseal
from teacher_cache.program.progress import silent


def dense(ids: np.ndarray, probabilities: np.ndarray, tail: np.ndarray, num_classes: int) -> np.ndarray:
    """Return labels (V, R, K) as probabilities of all classes (V, R, C), tails spread evenly."""
    rest = tail / max(num_classes - ids.shape[2], 1)
    whole = np.repeat(rest[..., None].astype(np.float64), num_classes, axis=2)
    np.put_along_axis(whole, ids.astype(np.int64), probabilities, axis=2)
    return whole


def entropy(p: np.ndarray) -> np.ndarray:
    return -np.where(p > 0, p * np.log(np.where(p > 0, p, 1)), 0).sum(-1)


@given(
    seed=st.integers(0, 2**32 - 1),
    views=st.integers(1, 4),
    num_classes=st.integers(2, 9),
    data=st.data(),
)
def test_figures_of_rows_are_those_of_dense_labels(
    seed: int, views: int, num_classes: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, num_classes))
    rng, rows = np.random.default_rng(seed), 5
    p = rng.dirichlet(np.full(num_classes, 0.3), (views, rows))
    ids = np.argsort(-p, axis=2)[..., :k].astype(np.int32)
    kept = np.take_along_axis(p, ids.astype(np.int64), 2).astype(np.float32)
    tail = (1 - kept.sum(2)).clip(0).astype(np.float32) if k < num_classes else np.zeros(kept.shape[:2], "f4")
    labels = rng.integers(-1, num_classes, rows)
    found, sums = sum_rows(ids, kept, tail, labels, num_classes)
    whole = dense(ids, kept, tail, num_classes)
    mean = whole.mean(0)
    np.testing.assert_allclose(found.confidence_R, mean.max(1), atol=1e-5)
    np.testing.assert_allclose(found.disagreement_R, entropy(mean) - entropy(whole).mean(0), atol=1e-4)
    for row, label in enumerate(labels.tolist()):
        if label < 0:
            assert np.isnan(found.margin_R[row])
            continue
        others = np.delete(mean[row], label).max()
        np.testing.assert_allclose(found.true_probability_R[row], mean[row, label], atol=1e-5)
        np.testing.assert_allclose(found.margin_R[row], mean[row, label] - others, atol=1e-5)
        assert found.agreed_R[row] == (ids[:, row, 0] == label).sum()
    np.testing.assert_allclose(sums.entropy_V, entropy(whole).sum(1), atol=1e-3)
    assert sums.confidences.sum() == sums.entropies.sum() == sums.tails.sum() == views * rows


def test_an_extract_measures_its_archive(labels: str, dataset: PackedDataset) -> None:
    reader = ArchiveReader(labels)
    figures = figures_of(reader)
    assert figures is not None
    rows = rows_of(reader.store, figures)
    assert rows is not None
    tops = np.stack(
        [reader.lookup(np.arange(33), np.full(33, view)).class_ids_BK[:, 0].numpy() for view in range(3)]
    )
    truth = dataset.index.labels_N
    assert figures.agreement_V == [round(float(share), 6) for share in (tops == truth).mean(1)]
    assert (figures.classes, figures.rows_C) == (["ant", "bee", "cat"], [11, 11, 11])
    assert rows["label"].to_pylist() == truth.tolist()
    assert rows["views_agreed"].to_pylist() == (tops == truth).sum(0).tolist()
    counts = {(a, b): int(((tops == b) & (truth == a)).sum()) for a in range(3) for b in range(3) if a != b}
    assert {(a, b): n for a, b, n in figures.confusions} == {pair: n for pair, n in counts.items() if n}
    assert sum(figures.confidences) == 99


def test_rows_are_measured_in_pieces_that_fit_into_memory(
    labels: str, dataset: PackedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = ArchiveReader(labels)
    whole = measure(reader, dataset.index.labels_N, dataset.info.classes, silent)
    monkeypatch.setattr("teacher_cache.archive.figures.measure._MAX_VALUES", 20)
    assert measure(reader, dataset.index.labels_N, dataset.info.classes, silent) == whole
    assert whole[0] == figures_of(reader)


def test_images_without_labels_have_figures_without_agreement(labels: str, dataset: PackedDataset) -> None:
    figures, _ = measure(ArchiveReader(labels), np.full(33, -1), dataset.info.classes, silent)
    assert (figures.agreement, figures.labelled_rows, figures.confusions) == (None, 0, [])
    assert figures.confidence > 0


def test_figures_of_another_manifest_are_not_used(
    labels: str, data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(labels, tmp_path / "grown")
    before = figures_of(ArchiveReader(str(tmp_path / "grown")))
    assert main(extract_flags(data, tmp_path / "grown", views="4:6")) == 0
    after = figures_of(ArchiveReader(str(tmp_path / "grown")))
    assert before is not None
    assert after is not None
    assert (before.views, after.views) == ([0, 1, 2], [0, 1, 2, 4, 5])
    assert before.manifest_sha256 != after.manifest_sha256
    assert dataclasses.replace(after, views=before.views) != before
    capsys.readouterr()


def test_figures_of_terabytes_can_be_read_back(labels: str, dataset: PackedDataset, tmp_path: Path) -> None:
    shutil.copytree(labels, tmp_path / "large")
    reader = ArchiveReader(str(tmp_path / "large"))
    figures, rows = measure(reader, dataset.index.labels_N, dataset.info.classes, silent)
    put_figures(reader.store, reader.spec.fingerprint, dataclasses.replace(figures, label_bytes=2**42), rows)
    found = figures_of(reader)
    assert found is not None
    assert found.label_bytes == 2**42


@pytest.mark.parametrize(
    "change",
    [
        lambda f: f.update(views=[]),
        lambda f: f.update(shards_C=[[[0, 10**12]], [], []]),
        lambda f: f.update(rows_C=[-1, 2, 3]),
        lambda f: f.update(confusions=[[7, 0, 1]]),
        lambda f: f.update(agreement_V=[0.5]),
        lambda f: f.update(confidences=[1]),
        lambda f: f.update(classes=["ant"]),
        lambda f: f.pop("tail"),
    ],
)
def test_figures_from_elsewhere_that_do_not_fit_are_refused(
    change: Callable[[dict], object], labels: str, tmp_path: Path
) -> None:
    shutil.copytree(labels, tmp_path / "foreign")
    file = tmp_path / "foreign" / "figures" / "labels.json"
    document = unseal(file.read_bytes())
    change(document["figures"])
    file.write_bytes(seal(document))
    with pytest.raises(ArchiveError):
        figures_of(ArchiveReader(str(tmp_path / "foreign")))


def test_figures_of_rows_from_elsewhere_are_those_of_the_figures(labels: str, tmp_path: Path) -> None:
    shutil.copytree(labels, tmp_path / "foreign")
    reader = ArchiveReader(str(tmp_path / "foreign"))
    figures = figures_of(reader)
    assert figures is not None
    file = tmp_path / "foreign" / "figures" / "rows.parquet"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ArchiveError, match="sha256"):
        rows_of(reader.store, figures)


@pytest.mark.parametrize("value", [-1e9, -5.0, np.nan, np.inf])
def test_impossible_probabilities_do_not_leave_the_histograms(value: float) -> None:
    ids = np.zeros((1, 2, 1), np.int32)
    odd = np.full((1, 2), value, np.float32)
    _, views = sum_rows(ids, odd[..., None], odd, np.zeros(2, np.int64), 3)
    assert views.confidences.sum() == views.entropies.sum() == views.tails.sum() == 2
