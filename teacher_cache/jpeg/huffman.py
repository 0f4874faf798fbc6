"""Huffman tables of a JPEG: read from the file, and built for given frequencies (ITU-T T.81)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from teacher_cache.exact.compiled import compiled
from teacher_cache.jpeg.header import DHT, SEGMENT_HEAD_BYTES

NUM_TABLES = 8
"""Tables of a scan: four for DC, then four for AC."""
AC = 4
"""Number of the first AC table."""
NUM_SYMBOLS = 256
LOOKAHEAD = 12
"""Bits by which most codes are found at once."""
MAX_LENGTH = 16
"""Longest code in bits (T.81, C.2)."""

Integers = npt.NDArray[np.int64]


class Tables(NamedTuple):
    """Huffman tables of a scan, for reading it; a table that the file does not define has no codes.

    Attributes:
        lookup_TL: Code length << 8 | symbol, by the next LOOKAHEAD bits, int32; 0 for longer codes.
        limits_T2L: For each length n, one more than the largest code of n bits, and the position of the first
            such code's symbol less that code: int64 (T, 2, 17).
        symbols_TS: Symbols in order of their codes, uint8 (T, 256).
    """

    lookup_TL: npt.NDArray[np.int32]
    limits_T2L: Integers
    symbols_TS: npt.NDArray[np.uint8]


def read_tables(data: bytes, starts: Iterable[int]) -> Tables | None:
    """Return the tables of the DHT segments at `starts`, skipping other segments; None if malformed."""
    tables = Tables(
        np.zeros((NUM_TABLES, 1 << LOOKAHEAD), np.int32),
        np.zeros((NUM_TABLES, 2, MAX_LENGTH + 1), np.int64),
        np.zeros((NUM_TABLES, NUM_SYMBOLS), np.uint8),
    )
    for start in starts:
        if data[start + 1] != DHT:
            continue
        position = start + SEGMENT_HEAD_BYTES
        stop = start + 2 + int.from_bytes(data[start + 2 : position], "big")
        while position < stop:
            kind, slot = data[position] >> 4, data[position] & 15
            first = position + 1 + MAX_LENGTH
            counts = data[position + 1 : first]
            position = first + sum(counts)
            if kind > 1 or slot >= AC or sum(counts) > NUM_SYMBOLS or position > stop:
                return None
            number = kind * AC + slot
            symbols_S = tables.symbols_TS[number]
            symbols_S[: sum(counts)] = np.frombuffer(data, np.uint8, sum(counts), first)
            counts_L = np.frombuffer(counts, np.uint8)
            if not _fill(counts_L, symbols_S, tables.lookup_TL[number], tables.limits_T2L[number]):
                return None
    return tables


def table_segment(lengths_TS: Integers) -> bytes:
    """Return the DHT segment of the tables that have codes: lengths of codes, int64 (NUM_TABLES, 256)."""
    body = bytearray()
    for number, lengths_S in enumerate(lengths_TS):
        if lengths_S.any():
            counts = np.bincount(lengths_S, minlength=MAX_LENGTH + 1)[1:]
            order = np.argsort(lengths_S, kind="stable")
            symbols = order[lengths_S[order] > 0]
            body += bytes([number // AC << 4 | number % AC, *counts.tolist(), *symbols.tolist()])
    return bytes([0xFF, DHT]) + (len(body) + 2).to_bytes(2, "big") + bytes(body)


def best_tables(counts_TS: Integers) -> tuple[Integers, Integers]:
    """Return the best tables for given symbol frequencies; no symbol gets the code of only ones.

    Args:
        counts_TS: Frequencies, int64 (NUM_TABLES, 256).

    Returns:
        Lengths of the codes, 0 for symbols that do not occur, and code << 8 | length: int64, as `counts_TS`.
    """
    lengths_TS, codes_TS = np.zeros_like(counts_TS), np.zeros_like(counts_TS)
    for number in np.flatnonzero(counts_TS.any(axis=1)):
        _best_lengths(counts_TS[number], lengths_TS[number])
        _fill_codes(lengths_TS[number], codes_TS[number])
    return lengths_TS, codes_TS


@compiled
def _fill(
    counts_L: npt.NDArray[np.uint8],
    symbols_S: npt.NDArray[np.uint8],
    lookup_L: npt.NDArray[np.int32],
    limits_2L: Integers,
) -> bool:
    """Fill in a table of `Tables`, and return whether the counts are those of a prefix code."""
    lookup_L[:] = 0
    limits_2L[:] = 0
    code, position = 0, 0
    for length in range(1, MAX_LENGTH + 1):
        limits_2L[1, length] = position - code
        for _ in range(counts_L[length - 1]):
            if length <= LOOKAHEAD and code < 1 << length:
                first, count = code << (LOOKAHEAD - length), 1 << (LOOKAHEAD - length)
                lookup_L[first : first + count] = length << 8 | symbols_S[position]
            code += 1
            position += 1
        if code > 1 << length:
            return False
        limits_2L[0, length] = code if counts_L[length - 1] else 0
        code <<= 1
    return True


@compiled
def _best_lengths(counts_S: Integers, lengths_S: Integers) -> None:
    """Fill in the lengths of an optimal prefix code of at most 16 bits that leaves the code of ones unused.

    The code and the limit are those of T.81, K.2; a queue of sums replaces its searches for the rarest two.
    """
    order = np.argsort(counts_S, kind="mergesort")  # stable, whatever the release
    order = order[counts_S[order] > 0]
    num_leaves = len(order) + 1  # leaf 0 stands for the code of ones, which is the rarest
    num_nodes = 2 * num_leaves - 1
    weight, parent = np.empty(num_nodes, np.int64), np.zeros(num_nodes, np.int64)
    weight[0] = 1
    for leaf in range(1, num_leaves):
        weight[leaf] = counts_S[order[leaf - 1]] * 2
    leaf, inner = 0, num_leaves
    for node in range(num_leaves, num_nodes):
        total = 0
        for _ in range(2):
            if leaf < num_leaves and (inner >= node or weight[leaf] <= weight[inner]):
                child = leaf
                leaf += 1
            else:
                child = inner
                inner += 1
            total += weight[child]
            parent[child] = node
        weight[node] = total
    depth = np.zeros(num_nodes, np.int64)
    counts = np.zeros(num_nodes + MAX_LENGTH + 1, np.int64)
    for node in range(num_nodes - 2, -1, -1):
        depth[node] = depth[parent[node]] + 1
        if node < num_leaves:
            counts[depth[node]] += 1
    for length in range(num_nodes, MAX_LENGTH, -1):
        while counts[length] > 0:
            shorter = length - 2
            while counts[shorter] == 0:
                shorter -= 1
            counts[length] -= 2
            counts[length - 1] += 1
            counts[shorter + 1] += 2
            counts[shorter] -= 1
    longest = MAX_LENGTH
    while counts[longest] == 0:
        longest -= 1
    counts[longest] -= 1  # the code of ones
    position = len(order) - 1  # the most frequent symbol
    for length in range(1, MAX_LENGTH + 1):
        for _ in range(counts[length]):
            lengths_S[order[position]] = length
            position -= 1


@compiled
def _fill_codes(lengths_S: Integers, codes_S: Integers) -> None:
    """Fill in the canonical code << 8 | its length of each symbol (T.81, C.2)."""
    code = 0
    for length in range(1, MAX_LENGTH + 1):
        for symbol in range(NUM_SYMBOLS):
            if lengths_S[symbol] == length:
                codes_S[symbol] = code << 8 | length
                code += 1
        code <<= 1
