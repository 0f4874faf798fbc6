"""Read a parquet file from elsewhere to a bound of memory."""

from __future__ import annotations

from typing import Any

_MAX_RATIO, _SPARE_BYTES, _SPARE_ROWS = 64, 2**24, 2**20
_BATCH_ROWS = 2**16


def bounded_batches(file: Any, num_bytes: int) -> list[Any]:
    """Return the batches of a file, unless its rows take far more memory than the file has bytes.

    Files of this program hold a sha256, a key or a measured number in each row, which do not compress so far.
    Arrow unpacks a page, of 2 GiB at most, before its rows can be counted.

    Args:
        file: pyarrow.parquet.ParquetFile.
        num_bytes: Size of the file.

    Raises:
        ValueError: It has too many rows, or too many bytes once they are read.
    """
    limit, found, total = num_bytes * _MAX_RATIO + _SPARE_BYTES, [], 0
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    claimed = sum(group.total_byte_size for group in groups)
    if file.metadata.num_rows > num_bytes + _SPARE_ROWS or claimed > limit:
        raise ValueError(f"{num_bytes:,} bytes that claim {file.metadata.num_rows:,} rows, {claimed:,} bytes")
    for batch in file.iter_batches(_BATCH_ROWS, use_threads=False):
        total += batch.nbytes
        if total > limit:
            raise ValueError(f"{num_bytes:,} bytes that unpack to more than {limit:,} bytes")
        found.append(batch)
    return found
