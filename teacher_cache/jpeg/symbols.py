"""Entropy-coded data of a baseline scan to a list of symbols, and back: loops compiled by numba.

A symbol is a uint32: the Huffman symbol, its extra bits << 8, the number of its table << 24. The loops follow
ITU-T T.81, annex F; the lowest `bits` bits of the int64 `acc` are pending, the highest of them first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from teacher_cache.exact.compiled import compiled
from teacher_cache.jpeg.header import EOI, RESTARTS
from teacher_cache.jpeg.huffman import LOOKAHEAD, MAX_LENGTH

_int64: Any = np.int64  # typed so that its sums with int are int, as they are when compiled
DAMAGED = -1
"""Result of `read_symbols` for damaged data, or data that decoders may read differently."""
_MAX_DC_BITS, _MAX_AC_BITS = 11, 10
"""Extra bits of 8-bit samples at most (T.81, F.1.2)."""
_ZEROS_16 = 0xF0
_RST0, _EOI = RESTARTS[0], EOI

Bytes = npt.NDArray[np.uint8]
Integers = npt.NDArray[np.int64]


@compiled
def _has_ff(word: int) -> bool:
    """Return whether one of the four bytes of a word is FF."""
    return (((word ^ 0xFFFFFFFF) - 0x01010101) & word & 0x80808080) != 0


@compiled
def _refill(data: Bytes, position: int, acc: int, bits: int, padding: int) -> tuple[int, int, int, int]:
    """Return position, acc, bits >= 32 and padding, the number of zero bits read past a marker or the end."""
    # Most words have no FF, and are taken whole. An FF byte is data only if 00 follows it (T.81, B.1.1.5);
    # with anything else it begins a marker, at which zero bits are supplied as decoders do.
    if position + 4 <= len(data):
        word = _int64(data[position]) << 24 | _int64(data[position + 1]) << 16
        word |= _int64(data[position + 2]) << 8 | _int64(data[position + 3])
        if not _has_ff(word):
            return position + 4, acc << 32 | word, bits + 32, padding
    while bits < 32:
        byte = 0
        if position + 1 < len(data) and data[position] != 0xFF:
            byte = _int64(data[position])
            position += 1
        elif position + 1 < len(data) and data[position + 1] == 0:
            byte = 0xFF
            position += 2
        else:
            padding += 8
        acc = acc << 8 | byte
        bits += 8
    return position, acc, bits, padding


@compiled
def _long_code(acc: int, bits: int, limits_2L: Integers, symbols_S: Bytes) -> int:
    """Return length << 8 | symbol of a code longer than LOOKAHEAD bits; 0 if there is none."""
    for length in range(LOOKAHEAD + 1, MAX_LENGTH + 1):
        code = (acc >> (bits - length)) & ((1 << length) - 1)
        if code < limits_2L[0, length]:
            return length << 8 | _int64(symbols_S[code + limits_2L[1, length]])
    return 0


@compiled
def _ends(data: Bytes, position: int, bits: int, padding: int, marker: int) -> bool:
    """Return whether the data ends at `marker`: less than a byte is unread, and no padding was used."""
    is_used = padding <= bits < padding + 8
    return is_used and position + 1 < len(data) and data[position] == 0xFF and data[position + 1] == marker


@compiled
def _size_of(difference: int) -> int:
    """Return the number of bits of a number's magnitude."""
    size, magnitude = 0, abs(difference)
    while magnitude > 0:
        magnitude >>= 1
        size += 1
    return size


@compiled
def read_symbols(
    data: Bytes,
    start: int,
    interval: int,
    num_mcus: int,
    blocks_B3: Integers,
    lookup_TL: npt.NDArray[np.int32],
    limits_T2L: Integers,
    symbols_TS: Bytes,
    piece: int,
    out: npt.NDArray[np.uint32],
    starts: Integers,
    counts_TS: Integers,
) -> int:
    """Read the symbols of a scan; in each piece, the first DC difference of a component is taken from zero.

    Args:
        start: Offset of the scan.
        interval: MCUs between restart markers; 0 if there are none.
        num_mcus: MCUs of the picture.
        blocks_B3: Component, DC table and AC table of each block of an MCU.
        lookup_TL: Short codes of the Huffman tables; see huffman.Tables.
        limits_T2L: Limits of longer codes; see huffman.Tables.
        symbols_TS: Symbols of the Huffman tables; see huffman.Tables.
        piece: MCUs in a piece.
        out: Receives the symbols; one item per bit of the scan, plus 64 for a block, is always enough.
        starts: Receives the index of each piece's first symbol, then the total number of symbols.
        counts_TS: Receives the frequencies of the symbols of each table.

    Returns:
        Offset of the EOI marker, or DAMAGED.
    """
    position, acc, bits, padding = start, 0, 0, 0
    # Each DC value is coded as a difference. `before` is the value to add it to in this file, reset by its
    # restart markers; `shown` is the one in the rewritten file, reset at the start of each piece.
    before, shown = np.zeros(4, np.int64), np.zeros(4, np.int64)
    written, restarts = 0, 0
    for mcu in range(num_mcus):
        if interval > 0 and mcu > 0 and mcu % interval == 0:
            if not _ends(data, position, bits, padding, _RST0 + (restarts & 7)):
                return DAMAGED
            position += 2
            restarts += 1
            bits, padding = 0, 0
            before[:] = 0
        if mcu % piece == 0:
            shown[:] = 0
            starts[mcu // piece] = written
        for block in range(len(blocks_B3)):
            if bits < padding:
                return DAMAGED  # the data is at its end, and the picture is not
            component, table = blocks_B3[block, 0], blocks_B3[block, 1]
            position_in_block = 0
            while position_in_block < 64:
                if bits < 32:
                    position, acc, bits, padding = _refill(data, position, acc, bits, padding)
                entry = _int64(lookup_TL[table, (acc >> (bits - LOOKAHEAD)) & ((1 << LOOKAHEAD) - 1)])
                if entry == 0:
                    entry = _long_code(acc, bits, limits_T2L[table], symbols_TS[table])
                    if entry == 0:
                        return DAMAGED
                symbol = entry & 0xFF
                num_extra = symbol & 15
                bits -= (entry >> 8) + num_extra
                extra = (acc >> bits) & ((1 << num_extra) - 1)
                if position_in_block == 0:
                    if symbol > _MAX_DC_BITS:
                        return DAMAGED
                    difference = extra
                    # A negative number begins with the bit 0 (T.81, F.2.2.1).
                    if symbol > 0 and extra < 1 << (symbol - 1):
                        difference = extra - (1 << symbol) + 1
                    value = before[component] + difference
                    if shown[component] != before[component]:
                        difference = value - shown[component]
                        symbol = _size_of(difference)
                        if symbol > _MAX_DC_BITS:
                            return DAMAGED
                        extra = difference if difference >= 0 else difference + (1 << symbol) - 1
                    before[component] = shown[component] = value
                    position_in_block = 1
                elif num_extra == 0:
                    if symbol == 0:
                        position_in_block = 64
                    elif symbol == _ZEROS_16:
                        position_in_block += 16
                    else:
                        return DAMAGED
                else:
                    if num_extra > _MAX_AC_BITS:
                        return DAMAGED
                    position_in_block += (symbol >> 4) + 1
                out[written] = symbol | extra << 8 | table << 24
                counts_TS[table, symbol] += 1
                written += 1
                table = blocks_B3[block, 2]
            if position_in_block > 64:
                return DAMAGED
    if not _ends(data, position, bits, padding, _EOI):
        return DAMAGED
    starts[-1] = written
    return position


@compiled
def _put(out: Bytes, position: int, byte: int) -> int:
    """Write a byte, with a zero behind FF, and return the position behind it."""
    out[position] = byte
    if byte != 0xFF:
        return position + 1
    out[position + 1] = 0
    return position + 2


@compiled
def write_symbols(symbols: npt.NDArray[np.uint32], starts: Integers, codes_TS: Integers, out: Bytes) -> int:
    """Write a scan with restart markers between its pieces.

    Args:
        symbols: Symbols of `read_symbols`.
        starts: Index of each piece's first symbol, then the total number of symbols.
        codes_TS: Code << 8 | its length, by table and symbol: int64 (T * 256,).
        out: Receives the scan; room for twice its bits and two bytes a piece is always enough.

    Returns:
        Number of bytes.
    """
    position = 0
    for piece in range(len(starts) - 1):
        acc, bits = 0, 0
        for number in range(starts[piece], starts[piece + 1]):
            packed = _int64(symbols[number])
            code = codes_TS[(packed >> 24) << 8 | packed & 0xFF]
            num_extra = packed & 15
            acc = acc << ((code & 0xFF) + num_extra) | (code >> 8) << num_extra | (packed >> 8) & 0xFFFF
            bits += (code & 0xFF) + num_extra
            if bits >= 32:
                bits -= 32
                word = (acc >> bits) & 0xFFFFFFFF
                if _has_ff(word):
                    for shift in (24, 16, 8, 0):
                        position = _put(out, position, (word >> shift) & 0xFF)
                else:
                    out[position] = word >> 24
                    out[position + 1] = (word >> 16) & 0xFF
                    out[position + 2] = (word >> 8) & 0xFF
                    out[position + 3] = word & 0xFF
                    position += 4
        rest = -bits & 7
        acc = acc << rest | (1 << rest) - 1
        bits += rest
        while bits > 0:
            bits -= 8
            position = _put(out, position, (acc >> bits) & 0xFF)
        if piece + 2 < len(starts):
            out[position] = 0xFF
            out[position + 1] = _RST0 + (piece & 7)
            position += 2
    return position
