"""Rewrite a baseline JPEG with restart markers, so that crops can be cut out; no coefficient changes."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from teacher_cache.jpeg import huffman
from teacher_cache.jpeg.header import DHT, DRI, SOS, Header, Segments, read_header, read_segments
from teacher_cache.jpeg.symbols import DAMAGED, read_symbols, write_symbols

_PIECE_PX, _NARROWEST_PX = 56, 16
"""Target width of a piece, and its least width: smaller pieces save decoded pixels, but cost bytes."""
_KEPT_SYMBOLS = 1 << 22
"""Symbols that a thread keeps room for, 16 MiB; larger images get room of their own."""
_BLOCK_SYMBOLS = 64


def rewrite(data: bytes) -> bytes | None:
    """Return a JPEG with a restart marker every few MCUs of each row, and Huffman tables of its own.

    All segments but the Huffman tables and the restart interval are kept, and so is what follows the picture.

    Returns:
        JPEG; None if the JPEG is not baseline, or if decoders may read it differently.
    """
    segments = read_segments(data)
    header = read_header(data, segments) if segments else None
    tables = huffman.read_tables(data, segments.starts) if segments else None
    if segments is None or header is None or tables is None:
        return None
    piece, num_mcus = _piece(header), header.mcus_per_row * header.mcu_rows
    symbols = _scratch.symbols(8 * (len(data) - header.scan_start) + _BLOCK_SYMBOLS)
    starts = np.zeros(num_mcus // piece + 1, np.int64)
    counts_TS = np.zeros((huffman.NUM_TABLES, huffman.NUM_SYMBOLS), np.int64)
    end = read_symbols(
        np.frombuffer(data, np.uint8),
        header.scan_start,
        header.restart_interval,
        num_mcus,
        _blocks(header),
        *tables,
        piece,
        symbols,
        starts,
        counts_TS,
    )
    if end == DAMAGED:
        return None
    lengths_TS, codes_TS = huffman.best_tables(counts_TS)
    num_bits = int((counts_TS * (lengths_TS + np.arange(huffman.NUM_SYMBOLS) % 16)).sum())
    scan = np.empty(2 * (num_bits // 8 + 4 * len(starts)), np.uint8)
    size = write_symbols(symbols, starts, codes_TS.ravel(), scan)
    return b"".join([*_head(data, segments, piece, lengths_TS), scan[:size].data, data[end:]])


def _piece(header: Header) -> int:
    """Return the number of MCUs between restart markers: the divisor of a row's MCUs nearest to 56 pixels."""
    per_row, mcu_px = header.mcus_per_row, header.mcu_width
    narrowest = -(-_NARROWEST_PX // mcu_px)
    divisors = [count for count in range(narrowest, per_row) if per_row % count == 0]
    ratios = {count: count * mcu_px / _PIECE_PX for count in [*divisors, per_row]}
    return min(ratios, key=lambda count: max(ratios[count], 1 / ratios[count]))


def _blocks(header: Header) -> npt.NDArray[np.int64]:
    """Return component, DC table and AC table of each block of an MCU, int64 (B, 3)."""
    return np.array(
        [
            (number, each.dc_table, huffman.AC + each.ac_table)
            for number, each in enumerate(header.components)
            for _ in range(each.h * each.v)
        ]
    )


def _head(data: bytes, segments: Segments, piece: int, lengths_TS: npt.NDArray[np.int64]) -> Iterator[bytes]:
    """Yield what comes before the scan, with the new tables and restart interval in front of SOS."""
    yield data[:2]
    for start, stop in itertools.pairwise([*segments.starts, segments.scan_start]):
        marker = data[start + 1]
        if marker == SOS:
            yield huffman.table_segment(lengths_TS)
            yield bytes([0xFF, DRI, 0, 4]) + piece.to_bytes(2, "big")
        if marker not in (DHT, DRI):
            yield data[start:stop]


class _Scratch(threading.local):
    """Buffer for the symbols of an image, reused for the next image instead of allocating new memory."""

    def __init__(self) -> None:
        self._symbols = np.empty(0, np.uint32)

    def symbols(self, count: int) -> npt.NDArray[np.uint32]:
        if count > _KEPT_SYMBOLS:
            return np.empty(count, np.uint32)
        if len(self._symbols) < count:
            self._symbols = np.empty(count, np.uint32)
        return self._symbols


_scratch = _Scratch()
