"""Measure the figures of an archive from all its labels and the true classes of its images."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from teacher_cache.archive.figures.figures import BINS, COLUMNS, Figures, put_figures
from teacher_cache.archive.figures.row_sums import RowFigures, ViewSums, sum_rows
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import InputError
from teacher_cache.exact.canonical import sha256_hex
from teacher_cache.program.progress import Track
from teacher_cache.storage.store import Store

_CONFUSIONS = 1_000
"""Number of pairs of a true class and another top class that are kept, the most frequent ones."""
_MAX_VALUES = 2**25
"""Number of probabilities that are held in memory at once."""
_DIGITS = 6


def measure(
    reader: ArchiveReader, labels_N: npt.NDArray[np.integer], classes: Sequence[str], track: Track
) -> tuple[Figures, bytes]:
    """Measure all labels of an archive.

    Args:
        labels_N: True classes of the dataset's rows; negative where there is none.
        classes: Names of the dataset's classes; none where it names none.

    Returns:
        The figures, and the content of figures/rows.parquet.

    Raises:
        InputError: The archive is a part, or has no view that all shards have.
        ArchiveError: A label is damaged.
    """
    if reader.shards is not None or not reader.views:
        raise InputError(
            f"{reader.url} has no view of all image shards",
            "Figures of these labels would not describe the whole archive.",
            "pull or extract the missing labels first",
        )
    spec, num_classes = reader.spec, reader.spec.labels.num_classes
    if labels_N.max(initial=-1) >= num_classes:
        raise InputError(
            f"the dataset has the true class {labels_N.max()}, but {reader.url} has {num_classes:,} classes",
            "No label could agree with it.",
            "give --data the dataset that was labelled",
        )
    parts: list[RowFigures] = []
    sums: list[npt.NDArray[Any]] = [np.zeros(len(reader.views)) for _ in range(4)]
    sums += [np.zeros(BINS, np.int64) for _ in range(3)]
    pairs = _Pairs(num_classes)
    with track("measure", len(labels_N) * len(reader.views), "labels") as advance:
        for rows, top_VR, row_figures, view_sums in _measured(reader, labels_N):
            parts.append(row_figures)
            sums = [total + one for total, one in zip(sums, view_sums, strict=True)]
            pairs.add(labels_N[rows.start : rows.stop], top_VR)
            advance(top_VR.size)
    of_views = ViewSums(*sums)
    of_rows = RowFigures(*map(np.concatenate, zip(*parts, strict=True)))
    is_labelled_N = labels_N >= 0
    rows_C = np.bincount(labels_N[is_labelled_N], minlength=num_classes)
    agreed_C = np.bincount(labels_N[is_labelled_N], of_rows.agreed_R[is_labelled_N], num_classes)
    num_rows, num_views, num_labelled = len(labels_N), len(reader.views), int(is_labelled_N.sum())
    means = {
        name: [round(value / num_rows, _DIGITS) for value in getattr(of_views, name).tolist()]
        for name in ("confidence_V", "entropy_V", "tail_V")
    }
    rows_data = _rows_bytes(labels_N, of_rows)
    figures = Figures(
        manifest_sha256=reader.manifest_sha256,
        rows_sha256=sha256_hex(rows_data),
        classes=list(classes) if len(classes) == num_classes else [],
        rows=num_rows,
        views=reader.views,
        label_bytes=reader.num_bytes,
        labelled_rows=num_labelled,
        agreement=_rounded(of_views.agreed_V.sum() / (num_labelled * num_views)) if num_labelled else None,
        confidence=_rounded(of_views.confidence_V.sum() / (num_rows * num_views)),
        entropy=_rounded(of_views.entropy_V.sum() / (num_rows * num_views)),
        tail=_rounded(of_views.tail_V.sum() / (num_rows * num_views)),
        agreement_V=[_rounded(agreed / max(num_labelled, 1)) for agreed in of_views.agreed_V],
        **means,
        rows_C=rows_C.tolist(),
        agreement_C=[_rounded(share) for share in agreed_C / np.maximum(rows_C * num_views, 1)],
        teacher_rows_C=np.bincount(of_rows.teacher_class_R, minlength=num_classes).tolist(),
        shards_C=_shards_of_classes(labels_N, spec.layout.rows_per_shard, num_classes),
        confidences=of_views.confidences.tolist(),
        entropies=of_views.entropies.tolist(),
        tails=of_views.tails.tolist(),
        confusions=pairs.most_frequent(_CONFUSIONS),
    )
    return figures, rows_data


def measure_and_put(reader: ArchiveReader, store: Store, dataset: PackedDataset, track: Track) -> None:
    """Measure all labels of an archive, and write the figures beside it.

    Args:
        store: Store of the archive to write to; the reader's may be pinned to a revision.

    Raises:
        InputError, ArchiveError: See `measure`.
    """
    figures, rows = measure(reader, dataset.index.labels_N, dataset.info.classes, track)
    put_figures(store, reader.spec.fingerprint, figures, rows)


class _Pairs:
    """Counts of pairs of a true class and another top class."""

    def __init__(self, num_classes: int) -> None:
        self._num_classes = num_classes
        self._codes, self._counts = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def add(self, labels_R: npt.NDArray[np.integer], top_VR: npt.NDArray[np.int32]) -> None:
        """Count the top classes of some rows that are not their true classes."""
        labels_VR = np.broadcast_to(labels_R, top_VR.shape)
        differs = (labels_VR >= 0) & (labels_VR != top_VR)
        pairs_N = labels_VR[differs].astype(np.int64) * self._num_classes + top_VR[differs]
        codes, counts = np.unique(pairs_N, return_counts=True)
        self._codes, inverse = np.unique(np.concatenate([self._codes, codes]), return_inverse=True)
        self._counts = np.bincount(inverse, np.concatenate([self._counts, counts])).astype(np.int64)

    def most_frequent(self, limit: int) -> list[tuple[int, int, int]]:
        """Return (true class, top class, count) of the most frequent pairs; ties in order of class ids."""
        order = np.lexsort((self._codes, -self._counts))[:limit]
        labels, tops = np.divmod(self._codes[order], self._num_classes)
        return list(zip(labels.tolist(), tops.tolist(), self._counts[order].tolist(), strict=True))


def _measured(
    reader: ArchiveReader, labels_N: npt.NDArray[np.integer]
) -> Iterator[tuple[range, npt.NDArray[np.int32], RowFigures, ViewSums]]:
    """Yield rows, top classes (V, R), row figures and view sums, for a limited number of rows at a time."""
    layout, k = reader.spec.layout, reader.spec.labels.k
    most_rows = max(1, _MAX_VALUES // (len(reader.views) * k))
    for shard in range(layout.num_shards):
        num_rows, first_row = reader.spec.rows(shard), shard * layout.rows_per_shard
        for start in range(0, num_rows, most_rows):
            stop = min(start + most_rows, num_rows)
            shape = (len(reader.views), stop - start, k)
            ids_VRK, probabilities_VRK = np.empty(shape, np.int32), np.empty(shape, np.float32)
            tail_VR = np.empty(shape[:2], np.float32)
            for number, view in enumerate(reader.views):
                labels = reader.labels(shard, view)  # tensors: torch's softmax makes the bits that are kept
                ids_VRK[number] = labels.class_ids_BK[start:stop]
                probabilities_VRK[number] = labels.probabilities()[start:stop]
                tail_VR[number] = labels.tail_B[start:stop]
            rows = range(first_row + start, first_row + stop)
            labels_R = labels_N[rows.start : rows.stop].astype(np.int64)
            num_classes = reader.spec.labels.num_classes
            yield rows, ids_VRK[..., 0], *sum_rows(ids_VRK, probabilities_VRK, tail_VR, labels_R, num_classes)


def _shards_of_classes(
    labels_N: npt.NDArray[np.integer], rows_per_shard: int, num_classes: int
) -> list[list[tuple[int, int]]]:
    shards_N = np.arange(len(labels_N)) // rows_per_shard
    found: list[list[tuple[int, int]]] = [[] for _ in range(num_classes)]
    pairs = np.unique(np.stack([labels_N, shards_N], axis=1)[labels_N >= 0], axis=0)
    for class_id, shard in pairs.tolist():
        ranges = found[class_id]
        if ranges and ranges[-1][1] == shard:
            ranges[-1] = (ranges[-1][0], shard + 1)
        else:
            ranges.append((shard, shard + 1))
    return found


def _rows_bytes(labels_N: npt.NDArray[np.integer], rows: RowFigures) -> bytes:
    values: Sequence[npt.NDArray[Any]] = (
        labels_N.astype(np.int32),
        rows.teacher_class_R,
        rows.confidence_R,
        rows.true_probability_R,
        rows.margin_R,
        rows.disagreement_R,
        rows.agreed_R,
    )
    with io.BytesIO() as buffer:
        pq.write_table(pa.table(dict(zip(COLUMNS, values, strict=True))), buffer, compression="zstd")
        return buffer.getvalue()


def _rounded(value: float) -> float:
    return round(float(value), _DIGITS)
