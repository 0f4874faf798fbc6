"""Figures of an archive, measured from all its labels when it is finished, and kept beside it.

figures/labels.json   agreement, confidence, entropy and tail mass by view and by class; confusions; coverage
figures/rows.parquet  a row per image, over all its views: the teacher's class, margin, disagreement
"""

from __future__ import annotations

import dataclasses
import io
from typing import TYPE_CHECKING, Any

from teacher_cache.archive.format.companions import FIGURES_FILE, ROWS_FILE, get_companion
from teacher_cache.archive.format.documents import FORMAT, VERSION, Count, Sha256, TotalBytes, View, converted
from teacher_cache.archive.format.receipts import document_of_archive
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.errors import ArchiveError
from teacher_cache.exact.canonical import seal, sha256_hex
from teacher_cache.storage.store import Store

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = (
    "label",
    "teacher_class",
    "confidence",
    "true_probability",
    "margin",
    "disagreement",
    "views_agreed",
)
_TYPES = ("int32", "int32", "float", "float", "float", "float", "int32")
"""Type of each column, by Arrow's names."""
BINS = 20
"""Number of bins of a histogram."""


@dataclasses.dataclass(frozen=True)
class Figures:
    """Figures of an archive's labels.

    Attributes:
        manifest_sha256: sha256 of the manifest whose labels were measured.
        rows_sha256: sha256 of figures/rows.parquet.
        classes: Names of the classes; none where the dataset does not name them.
        rows: Number of rows measured.
        views: View indices measured.
        label_bytes: Size of all objects of labels in bytes.
        labelled_rows: Number of rows with a true label.
        agreement: Share of the views of labelled rows whose top class is the true class; None without labels.
        confidence, entropy, tail: Means over all views: probability of the top class, entropy in nats, and
            probability outside the top k.
        agreement_V, confidence_V, entropy_V, tail_V: Means of each view over the rows.
        rows_C: Number of rows of each true class.
        agreement_C: Share of each true class's views that have it as top class; 0 for a class without rows.
        teacher_rows_C: Number of rows in which each class is the most probable, in the mean over the views.
        shards_C: Ranges [first, stop) of the image shards that have rows of each true class.
        confidences, entropies, tails: Histograms over views, with bins from 0 to 1, to log C, and to 1.
        confusions: (true class, wrong top class, number of views), the most frequent first.
    """

    manifest_sha256: Sha256
    rows_sha256: Sha256
    classes: list[str]
    rows: Count
    views: list[View]
    label_bytes: TotalBytes
    labelled_rows: int
    agreement: float | None
    confidence: float
    entropy: float
    tail: float
    agreement_V: list[float]
    confidence_V: list[float]
    entropy_V: list[float]
    tail_V: list[float]
    rows_C: list[int]
    agreement_C: list[float]
    teacher_rows_C: list[int]
    shards_C: list[list[tuple[int, int]]]
    confidences: list[int]
    entropies: list[int]
    tails: list[int]
    confusions: list[tuple[int, int, int]]

    @property
    def bytes_per_view(self) -> float:
        """Mean size in bytes of a label, that of one view of one row."""
        return self.label_bytes / (self.rows * len(self.views))


def figures_of(reader: ArchiveReader, store: Store | None = None) -> Figures | None:
    """Return the figures beside an archive; None if there are none, or they are another manifest's.

    Args:
        store: Store of its companions; the reader's by default.

    Raises:
        ArchiveError: The document is damaged, or belongs to another archive.
    """
    store = store or reader.store
    data = get_companion(store, FIGURES_FILE)
    if data is None:
        return None
    what = store.path(FIGURES_FILE)
    document = document_of_archive(data, what, reader.spec)
    figures = converted(document.get("figures"), Figures, what)
    num_classes, num_shards = reader.spec.labels.num_classes, reader.spec.layout.num_shards
    lengths = {"C": num_classes, "V": len(figures.views)}
    listed = [field.name for field in dataclasses.fields(Figures) if field.name[-2:] in ("_C", "_V")]
    if (
        any(len(getattr(figures, name)) != lengths[name[-1]] for name in listed)
        or {len(figures.confidences), len(figures.entropies), len(figures.tails)} != {BINS}
        or len(figures.classes) not in (0, num_classes)
        or not figures.views
        or figures.rows != sum(count for _, count in reader.spec.dataset["shards"])
        or min((*figures.rows_C, *figures.confidences, *figures.entropies, *figures.tails)) < 0
        or not all(0 <= number < num_classes for pair in figures.confusions for number in pair[:2])
        or not all(figures.rows_C[label] for label, _, _ in figures.confusions)
        or not all(0 <= first < stop <= num_shards for of in figures.shards_C for first, stop in of)
    ):
        raise ArchiveError(
            f"{what} has figures that do not fit its own views, or the archive's classes or shards",
            "The figures cannot be shown.",
            "measure again",
        )
    is_current = figures.manifest_sha256 == reader.manifest_sha256
    return figures if is_current else None


def rows_of(store: Store, figures: Figures) -> pa.Table | None:
    """Return the table of figures/rows.parquet; None if there is no such file.

    Args:
        figures: Figures of the archive, which hold the expected sha256 of the file.

    Raises:
        ArchiveError: The file is damaged, or does not belong to the figures, or says more than its size can.
    """
    import pyarrow as pa
    import pyarrow.compute
    import pyarrow.parquet as pq

    from teacher_cache.exact.expansion import bounded_batches

    data = get_companion(store, ROWS_FILE)
    if data is None:
        return None
    try:
        if sha256_hex(data) != figures.rows_sha256:
            raise pa.ArrowInvalid("its sha256 is not the one in labels.json")
        file = pq.ParquetFile(io.BytesIO(data))
        types = {field.name: str(field.type) for field in file.schema_arrow}
        if file.metadata.num_rows != figures.rows or types != dict(zip(COLUMNS, _TYPES, strict=True)):
            raise pa.ArrowInvalid(f"{file.metadata.num_rows:,} rows of {', '.join(types)}")
        table = pa.Table.from_batches(bounded_batches(file, len(data)), file.schema_arrow)
        num_classes = len(figures.rows_C)
        for name, least in (("label", -1), ("teacher_class", 0)):
            ids = pa.compute.min_max(table[name]).as_py()
            if table[name].null_count or not least <= ids["min"] <= ids["max"] < num_classes:
                raise pa.ArrowInvalid(f"classes in {name} that are not those of the archive")
        return table
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ArchiveError(
            f"{store.path(ROWS_FILE)} cannot be used: {error}",
            "No figures of rows are shown.",
            "measure again: teacher-cache card ... --data ...",
        ) from error


def put_figures(store: Store, fingerprint: str, figures: Figures, rows: bytes) -> None:
    """Write the figures beside an archive, those of rows first.

    Raises:
        ArchiveError: A figure is out of the range that readers allow.
    """
    converted(dataclasses.asdict(figures), Figures, FIGURES_FILE)
    store.put(ROWS_FILE, rows)
    head: dict[str, Any] = {"format": FORMAT, "version": VERSION, "fingerprint": fingerprint}
    store.put(FIGURES_FILE, seal({**head, "figures": dataclasses.asdict(figures)}))
