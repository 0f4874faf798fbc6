"""Samples of an archive with the figures that they are sorted, filtered and shown by."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import io
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from teacher_cache.archive.figures.figures import rows_of
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import InputError, RecipeError
from teacher_cache.sharing.gather import facts_of

if TYPE_CHECKING:
    from pipelines.archive.inspect_view import Inspection, Inspector

SORTS = {
    "label": "Possible label errors",
    "views": "Views disagree",
    "confidence": "Low confidence",
    "row": "All samples",
}
"""Orders of samples by name, with their text."""
_KEPT = 64
"""Number of pairs of a shard and a view whose labels stay in memory."""
_THUMB_PX = 192


@dataclasses.dataclass(frozen=True)
class ShownSample:
    """Sample as a page shows it; values are None where the archive has no figures per row, or no labels.

    Attributes:
        key: Key of the sample, or its row as text without a dataset.
        label: True class, or None.
        teacher: Most probable class in the mean over the views, or None.
        confidence: Probability of that class.
        true_probability: Mean probability of the true class.
        disagreement: Jensen-Shannon divergence between the views, in nats.
    """

    row: int
    key: str
    label: int | None
    teacher: int | None
    confidence: float | None
    true_probability: float | None
    disagreement: float | None


class Collection:
    """Archive, its figures, and its images if they are given.

    Args:
        dataset: Dataset that was labelled, for its images and keys; None to look at labels alone.

    Attributes:
        figures: Figures of the archive; None where they were not measured.

    Raises:
        ArchiveError: The figures are damaged, or the dataset is not the one that was labelled.
    """

    def __init__(self, archive: ArchiveReader, dataset: PackedDataset | None) -> None:
        if dataset is not None:
            archive.check_dataset(dataset.info)
        self.reader, self._dataset = archive, dataset
        self.facts, self.figures = facts_of(archive)
        table = rows_of(archive.store, self.figures) if self.figures is not None else None
        self._columns: dict[str, npt.NDArray[Any]] = (
            {} if table is None else {name: table[name].to_numpy() for name in table.column_names}
        )
        self._lookup = archive.keeping(_KEPT)
        self._orders = {sort: self._sort(sort) for sort in self.sorts}

    @property
    def has_images(self) -> bool:
        """Whether images can be shown."""
        return self._dataset is not None

    @functools.cached_property
    def _inspector(self) -> Inspector:
        """Inspector of views; its first use imports the renderer, and checks the pixels that it renders."""
        from pipelines.archive.inspect_view import Inspector

        assert self._dataset is not None
        self.check_pixels()
        return Inspector(self._dataset, self.reader.recipe, self.reader)

    def check_pixels(self) -> None:
        """Raise RecipeError if this machine renders other pixels than those that were labelled."""
        if self._refusal is not None:
            raise self._refusal

    @functools.cached_property
    def _refusal(self) -> RecipeError | None:
        """Error of `check_pixels`, or None; cached, because the check renders all probe views."""
        try:
            self.reader.check_pixels()
        except RecipeError as error:
            return error
        return None

    @functools.cached_property
    def classes(self) -> Sequence[str]:
        """Names of the classes, or their ids as text if neither dataset nor figures name them."""
        named = self._dataset.info.classes if self._dataset else ()
        if not named and self.figures is not None:
            named = tuple(self.figures.classes)
        return named or _Numbers(self.facts.classes)

    @functools.cached_property
    def sorts(self) -> list[str]:
        """Orders that the figures allow."""
        if not self._columns:
            return ["row"]
        is_labelled = bool((self._columns["label"] >= 0).any())
        return [name for name in SORTS if name != "label" or is_labelled]

    @functools.cached_property
    def rows(self) -> Sequence[int]:
        """Rows that have labels, rising.

        No array of them: a manifest from elsewhere may claim any number of samples.
        """
        if self.reader.shards is None:
            return range(self.facts.samples)
        size = self.reader.spec.layout.rows_per_shard
        return _Spans([range(n * size, n * size + self.reader.spec.rows(n)) for n in self.reader.shards])

    def sorted_rows(self, sort: str, class_id: int | None) -> Sequence[int] | npt.NDArray[np.int64]:
        """Return the rows of a class, or of all, in an order of SORTS."""
        rows = self._orders[sort]
        if class_id is None:
            return rows
        if self._dataset is None and not self._columns:
            return ()
        labels_N = self._dataset.index.labels_N if self._dataset else self._columns["label"]
        rows_N = np.asarray(rows)
        return rows_N[labels_N[rows_N] == class_id]

    def _sort(self, sort: str) -> Sequence[int] | npt.NDArray[np.int64]:
        column = {"label": "true_probability", "views": "disagreement", "confidence": "confidence"}.get(sort)
        if column is None or not self._columns:
            return self.rows
        rows_N = np.asarray(self.rows)  # as many as the file of figures has rows
        values_N = self._columns[column][rows_N]
        return rows_N[np.argsort(-values_N if sort == "views" else values_N, kind="stable")]

    def sample(self, row: int) -> ShownSample:
        """Return a sample.

        Raises:
            InputError: There is no such row.
        """
        if not 0 <= row < self.facts.samples:
            raise InputError(
                f"row {row} of {self.facts.samples:,}", "There is no such sample.", "choose a lower row"
            )
        label = int(self._dataset.index.labels_N[row]) if self._dataset else self._value("label", row, int)
        return ShownSample(
            row=row,
            key=self._dataset.index.key(row) if self._dataset else f"row {row:,}",
            label=None if label is None or label < 0 else label,
            teacher=self._value("teacher_class", row, int),
            confidence=self._value("confidence", row, float),
            true_probability=self._value("true_probability", row, float),
            disagreement=self._value("disagreement", row, float),
        )

    def _value(self, column: str, row: int, kind: Any) -> Any:
        value = self._columns[column][row] if column in self._columns else None
        return None if value is None or value != value else kind(value)

    def views_of(self, row: int) -> list[int]:
        """Return the views of a row that have labels, rising."""
        shard = row // self.reader.spec.layout.rows_per_shard
        return [view for r in self.reader.receipts if r.unit.shard == shard for view in r.unit.views]

    def bars(self, row: int, view: int) -> list[tuple[int, float]]:
        """Return the classes of a label with their probabilities, the most probable first.

        Raises:
            ArchiveError: The archive has no such label, or it is damaged.
        """
        labels = self.reader.decode_rows(self._lookup(np.array([row]), np.array([view])))
        pairs = zip(labels.class_ids_BK[0].tolist(), labels.probabilities()[0].tolist(), strict=True)
        return list(pairs)

    def inspect(self, row: int, view: int) -> Inspection:
        """Return the parameters and pictures of a view; see `Inspector`."""
        return self._inspector.inspect(row, view)

    def thumbnail(self, row: int) -> bytes:
        """Return the image of a row as a small JPEG."""
        from teacher_cache import images  # what decodes is loaded with the first picture

        assert self._dataset is not None
        pixels_HWC = images.decode(self._dataset.image_bytes(row), self._dataset.index.key(row))
        picture = Image.fromarray(pixels_HWC)
        picture.thumbnail((_THUMB_PX, _THUMB_PX))
        return encoded(picture, "JPEG")

    def view_picture(self, row: int, view: int) -> bytes:
        """Return a view as a student sees it, as a JPEG."""
        return encoded(self._inspector.picture(row, view), "JPEG")

    def coverage(self, columns: int) -> list[tuple[str, list[float]]]:
        """Return each block's views as text, and the share of units that each group of shards has.

        Args:
            columns: Largest number of groups.
        """
        shards = self.facts.shards
        group = -(-shards // columns)
        counts: dict[tuple[int, int], list[int]] = {}
        for receipt in self.reader.receipts:
            block = (receipt.unit.first_view, receipt.unit.stop_view)
            row = counts.setdefault(block, [0] * -(-shards // group))
            row[receipt.unit.shard // group] += 1
        return [
            (
                f"{first}:{stop}",
                [count / min(group, shards - number * group) for number, count in enumerate(row)],
            )
            for (first, stop), row in sorted(counts.items())
        ]


class _Numbers(Sequence[str]):
    """Numbers from 0 as text, in place of the names of classes."""

    def __init__(self, count: int) -> None:
        self._numbers = range(count)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, place: Any) -> Any:
        found = self._numbers[place]
        return str(found) if isinstance(found, int) else list(map(str, found))


class _Spans(Sequence[int]):
    """Numbers of several ranges, one after the other."""

    def __init__(self, spans: Sequence[range]) -> None:
        self._spans, self._stops = spans, list(itertools.accumulate(map(len, spans)))

    def __len__(self) -> int:
        return self._stops[-1] if self._stops else 0

    def __getitem__(self, place: Any) -> Any:
        chosen = range(len(self))[place]
        if not isinstance(chosen, int):
            return [self[one] for one in chosen]
        span = bisect.bisect_right(self._stops, chosen)
        return self._spans[span][chosen - self._stops[span]]


def encoded(picture: Image.Image, kind: str) -> bytes:
    """Return a picture as the bytes of a file."""
    with io.BytesIO() as buffer:
        picture.save(buffer, kind, quality=90)
        return buffer.getvalue()
