"""Other readers: plain Zarr libraries, and one that was written from docs/archive-format.md alone.

What stands under "from the page" uses nothing of ours; if it must change, the page must.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore
import torch
import zarr
from support import CLASSES, SHARD_SIZE

from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.labels.tails import dense_probabilities

# ---- from the page


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def document(folder: Path, name: str) -> dict:
    data = (folder / name).read_bytes()
    found = json.loads(data)
    assert data == canonical(found) + b"\n"
    rest = {key: value for key, value in found.items() if key != "sha256"}
    assert hashlib.sha256(canonical(rest)).hexdigest() == found["sha256"]
    assert (found["format"], found["version"]) == ("teacher-cache-archive", 1)
    return rest


def zarr_python(folder: Path, array: str) -> np.ndarray:
    return zarr.open_array(str(folder / "labels.zarr" / array), mode="r")[...]


def zarrs(folder: Path, array: str) -> np.ndarray:
    pytest.importorskip("zarrs")
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        return zarr_python(folder, array)


def tensorstore_(folder: Path, array: str) -> np.ndarray:
    kvstore = {"driver": "file", "path": f"{folder}/labels.zarr/{array}/"}
    return tensorstore.open({"driver": "zarr3", "kvstore": kvstore}).result().read().result()


def probabilities(dq: np.ndarray, tail: np.ndarray, kept: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return shares of the kept classes among themselves, and the probability outside them."""
    share = np.exp(-np.cumsum(dq, axis=-1, dtype=np.int64) / 16)
    outside = np.where(tail == 255, 0.0, np.minimum(np.exp(tail / -16), 1 - kept / classes))
    return share / share.sum(-1, keepdims=True), outside


class PageReader:
    """An archive, read as the page says."""

    def __init__(self, folder: Path, read: Any) -> None:
        self.manifest = document(folder, "manifest.json")
        labels = self.manifest["spec"]["labels"]
        self.k, self.classes = labels["k"], labels["num_classes"]
        for unit in self.manifest["units"]:
            for array, (digest, size) in unit["objects"].items():
                rank = "" if array == "tail" else "/0"
                file = folder / f"labels.zarr/{array}/c/{unit['shard']}/{unit['block']}{rank}"
                assert file.stat().st_size == size
                assert hashlib.sha256(file.read_bytes()).hexdigest() == digest
        self.idx, self.dq, self.tail = (read(folder, array) for array in ("idx", "dq", "tail"))
        idx, dq, tail = (read(folder, f"affinity_{array}") for array in ("idx", "dq", "tail"))
        entries = labels["affinity"]["entries"]
        share, outside = probabilities(dq, tail, entries, self.classes)
        others = np.where(tail == 255, np.exp(-255 / 16), outside)
        others = np.minimum(others / max(self.classes - entries, 1), (1 - outside) * share[:, -1])
        self.affinity = np.repeat(others[:, None], self.classes, axis=1)
        np.put_along_axis(self.affinity, idx.astype(int), (1 - outside)[:, None] * share, axis=1)

    def dense(self, row: int, view: int) -> np.ndarray:
        """Return the probability of every class."""
        ids = self.idx[row, view].astype(int)
        share, outside = probabilities(self.dq[row, view], self.tail[row, view], self.k, self.classes)
        power = 1 + 0.4 * (1 - self.k / self.classes) ** 2
        log_a = power * (share @ np.log(self.affinity[ids])) + (1 - power) * np.log(self.affinity[-1])
        a = np.exp(log_a)
        a[ids] = 0
        dense = outside * a / a.sum()
        dense[ids] = (1 - outside) * share
        return dense


# ---- against ours


@pytest.mark.slow
@pytest.mark.parametrize("read", [zarr_python, zarrs, tensorstore_])
def test_a_reader_made_from_the_page_reads_what_ours_reads(read: Any, labels: str) -> None:
    page, ours = PageReader(Path(labels), read), ArchiveReader(labels)
    assert page.manifest["views"] == [[0, 3]]
    for row in range(33):
        for view in range(3):
            found = ours.labels(row // SHARD_SIZE, view)
            dense_BC = dense_probabilities(found, len(CLASSES), ours.affinity)
            expected = dense_BC[row % SHARD_SIZE].double().numpy()
            np.testing.assert_allclose(page.dense(row, view), expected, rtol=1e-4, atol=1e-9)
    assert (page.idx[33:] == 65_535).all()


def test_the_fingerprint_is_made_as_the_page_says(labels: str) -> None:
    found = document(Path(labels), "spec.json")
    spec = found["spec"]
    identity = {
        "format": ["teacher-cache-archive", 1],
        "dataset": spec["dataset"]["sha256"],
        "recipe": {name: value for name, value in spec["recipe"].items() if name != "name"},
        **{name: spec[name] for name in ("teacher", "labels", "probe_sha256")},
    }
    assert hashlib.sha256(canonical(identity)).hexdigest() == found["fingerprint"]


def test_one_view_is_read_without_the_others(labels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once its unit was hashed, a view takes its own chunks from the store, and nothing else."""
    reader = ArchiveReader(labels)
    expected = reader.labels(0, 1)
    layout, receipt = reader.spec.layout, reader.receipts[0]
    read: list[int] = []
    get_range = reader.store.get_range
    monkeypatch.setattr(
        reader.store,
        "get_range",
        lambda name, start, stop: (read.append(stop - start), get_range(name, start, stop))[1],
    )
    monkeypatch.setattr(reader.store, "get", lambda name: pytest.fail(f"{name} was read whole"))
    for found, wanted in zip(reader.labels(0, 1), expected, strict=True):
        assert torch.equal(found, wanted)
    assert len(read) == len(layout.arrays)
    assert sum(read) < receipt.num_bytes / 2
