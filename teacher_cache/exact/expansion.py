"""Bound of what a compressed parquet file may grow to, checked before it is read."""

from __future__ import annotations

from typing import Any

_MAX_RATIO, _SPARE_BYTES, _SPARE_ROWS = 64, 2**24, 2**20


def check_expansion(metadata: Any, num_bytes: int) -> None:
    """Refuse a file whose rows would take far more memory than the file has bytes.

    Files of this program hold a sha256, a key or a measured number in each row, which do not compress so far.

    Args:
        metadata: pyarrow.parquet.FileMetaData of the file.
        num_bytes: Size of the file.

    Raises:
        ValueError: It claims too many rows, or too many uncompressed bytes.
    """
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    claimed = sum(group.total_byte_size for group in groups)
    if metadata.num_rows > num_bytes + _SPARE_ROWS or claimed > num_bytes * _MAX_RATIO + _SPARE_BYTES:
        raise ValueError(f"{num_bytes:,} bytes that claim {metadata.num_rows:,} rows, {claimed:,} bytes")
