"""Read single images of parquet files in place: a row group at a time, the last ones kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_GROUPS_KEPT = 4
"""Row groups kept in memory; a shard's rows lie in few of them."""


class ParquetRows:
    """Images of parquet files by row.

    Args:
        column: Column of the images: bytes, or {bytes, path}.
        path_of: Function that returns the local path of a file, by its number.
    """

    def __init__(self, column: str, path_of: Callable[[int], Path]) -> None:
        self._column, self._path_of = column, path_of
        self._starts: dict[int, np.ndarray] = {}
        self._groups: dict[tuple[int, int], pa.Array] = {}

    def read(self, file: int, row: int) -> bytes:
        """Return the image of a row. Raises ValueError if the file has no such row, or the row no image."""
        if file not in self._starts:
            metadata = pq.read_metadata(self._path_of(file))
            sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
            self._starts[file] = np.cumsum([0, *sizes])
        starts = self._starts[file]
        if not 0 <= row < starts[-1]:
            raise ValueError(f"it has {starts[-1]:,} rows, not a row {row:,}")
        group = int(np.searchsorted(starts, row, side="right")) - 1
        value = self._group(file, group)[row - int(starts[group])].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise ValueError(f"row {row:,} has no image bytes")
        return data

    def _group(self, file: int, group: int) -> pa.Array:
        found = self._groups.pop((file, group), None)
        if found is None:
            table = pq.ParquetFile(self._path_of(file)).read_row_group(
                group, columns=[self._column], use_threads=False
            )
            found = table[self._column].combine_chunks()
            kept = list(self._groups.items())[1 - _GROUPS_KEPT :]
            self._groups = dict(kept)
        self._groups[file, group] = found  # last in the dict: used last
        return found
