"""Cut a box out of a JPEG as bytes: the pieces between restart markers that it needs become a JPEG."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from teacher_cache.exact.compiled import compiled
from teacher_cache.jpeg.header import EOI, RESTARTS, Header

_NEIGHBOURS_PX = 2
"""Pixels beside a box that affect its colours, because decoders interpolate colour samples that pixels share
(h2v1_fancy_upsample and similar functions in libjpeg-turbo's jdsample.c)."""
_LEAST_WIDTH_PX = 6
"""Width below which shared colour samples are upsampled in another way (jinit_upsampler in jdsample.c)."""
_BLOCK_PX = 8
_WORD_BYTES = 8
_MARKER_BYTES = 2
_NOT_CUTTABLE = 0
_RST0, _EOI = RESTARTS[0], EOI
_ONES, _HIGHS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)


class Cut(NamedTuple):
    """A part of a JPEG as a JPEG: its bytes, its place in the picture and its size in pixels."""

    data: npt.NDArray[np.uint8]
    top: int
    left: int
    height: int
    width: int


def cut(
    data: bytes | memoryview,
    header: Header,
    top: int,
    left: int,
    height: int,
    width: int,
    largest_share: float = 1.0,
) -> Cut | None:
    """Cut a JPEG down to the pieces that cover a box of it.

    Decoding the cut gives the same pixels for the box as decoding the whole picture.

    Args:
        top: First row of the box, which is inside the picture.
        left: First column of the box.
        height: Rows of the box.
        width: Columns of the box.
        largest_share: Share of the picture's pieces above which nothing is cut.

    Returns:
        Cut; None if the box needs more than the largest share, if pieces span two rows, or if a restart
        marker is missing or out of order.
    """
    if header.restart_interval == 0 or header.mcus_per_row % header.restart_interval:
        return None
    piece_height, piece_width = header.mcu_height, header.restart_interval * header.mcu_width
    grid = (header.mcu_rows, header.mcus_per_row // header.restart_interval)
    across = _NEIGHBOURS_PX if header.mcu_width > _BLOCK_PX else 0
    along = _NEIGHBOURS_PX if header.mcu_height > _BLOCK_PX else 0
    rows = max(top - along, 0) // piece_height, min(-(-(top + height + along) // piece_height), grid[0])
    first = max(left - across, 0) // piece_width
    if across and header.width - first * piece_width < _LEAST_WIDTH_PX:
        first = max(first - 1, 0)
    columns = first, min(-(-(left + width + across) // piece_width), grid[1])
    if (rows[1] - rows[0]) * (columns[1] - columns[0]) > largest_share * grid[0] * grid[1]:
        return None
    encoded = np.frombuffer(data, np.uint8)
    words = np.frombuffer(data, np.uint64, len(data) // _WORD_BYTES)
    out = np.empty(len(data) + _MARKER_BYTES, np.uint8)
    size = _copy(encoded, words, header.scan_start, grid, rows, columns, out)
    if size == _NOT_CUTTABLE:
        return None
    place = (rows[0] * piece_height, columns[0] * piece_width)
    cut_height = min(rows[1] * piece_height, header.height) - place[0]
    cut_width = min(columns[1] * piece_width, header.width) - place[1]
    at = header.size_at
    out[at : at + 4] = (cut_height >> 8, cut_height & 0xFF, cut_width >> 8, cut_width & 0xFF)
    return Cut(out[:size], *place, cut_height, cut_width)


@compiled
def _copy(
    data: npt.NDArray[np.uint8],
    words: npt.NDArray[np.uint64],
    scan_start: int,
    grid: tuple[int, int],
    rows: tuple[int, int],
    columns: tuple[int, int],
    out: npt.NDArray[np.uint8],
) -> int:
    """Copy the header and the pieces of some rows and columns, with their markers renumbered.

    Every marker of the scan is checked, from the first to the end of the picture.

    Args:
        words: The same memory as words of eight bytes, without an incomplete last word.
        scan_start: Offset of the scan.
        grid: Number of rows and columns of pieces.
        rows: First row of pieces to copy, and the row after the last.
        columns: First column of pieces to copy, and the column after the last.
        out: Receives the cut.

    Returns:
        Number of bytes written; 0 if a marker is missing, out of order, or of another kind.
    """
    out[:scan_start] = data[:scan_start]
    written, start = scan_start, scan_start
    row, column, copied = 0, 0, 0
    last = len(data) - 1
    for number in range(scan_start // _WORD_BYTES, len(words) + 1):
        if number < len(words):
            word = words[number]
            if ((~word - _ONES) & word & _HIGHS) == 0:
                continue  # no byte is FF
        for position in range(max(_WORD_BYTES * number, start), min(_WORD_BYTES * (number + 1), last)):
            if data[position] != 0xFF or data[position + 1] == 0:
                continue
            is_end = row + 1 == grid[0] and column + 1 == grid[1]
            if data[position + 1] != (_EOI if is_end else _RST0 + ((row * grid[1] + column) & 7)):
                return _NOT_CUTTABLE
            if rows[0] <= row < rows[1] and columns[0] <= column < columns[1]:
                if copied > 0:
                    out[written] = 0xFF
                    out[written + 1] = _RST0 + ((copied - 1) & 7)
                    written += _MARKER_BYTES
                out[written : written + position - start] = data[start:position]
                written += position - start
                copied += 1
            if is_end:
                out[written] = 0xFF
                out[written + 1] = _EOI
                return written + _MARKER_BYTES
            start = position + _MARKER_BYTES
            column += 1
            if column == grid[1]:
                column = 0
                row += 1
    return _NOT_CUTTABLE
