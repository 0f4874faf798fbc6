"""Header of a baseline JPEG: the fields and offsets that rewriting and cutting need, strictly read."""

from __future__ import annotations

import struct
from typing import NamedTuple

SOI, EOI, SOS, DQT, DHT, DRI = 0xD8, 0xD9, 0xDA, 0xDB, 0xC4, 0xDD
RESTARTS = range(0xD0, 0xD8)
SEGMENT_HEAD_BYTES = 4
"""Bytes of a segment before its content: FF, the marker, and the length."""
_FRAMES = (0xC0, 0xC1)
"""Baseline, and extended sequential with Huffman codes."""
_KNOWN = frozenset((*_FRAMES, SOS, DQT, DHT, DRI, 0xFE, *range(0xE0, 0xF0)))
"""Markers that may come before a scan; 0xFE is a comment, those from 0xE0 on belong to applications."""
_BLOCK_PX = 8
_MAX_MCU_BLOCKS, _MAX_SAMPLING = 10, 4
"""Blocks in an MCU, and a sampling factor, at most (ITU-T T.81, B.2.2 and B.2.3)."""
_WHOLE_SPECTRUM = b"\0\x3f\0"


class Segments(NamedTuple):
    """Segments of a JPEG in front of its first scan.

    Attributes:
        starts: Offsets of the segments; the last is SOS.
        scan_start: Offset of the first byte of entropy-coded data.
        frame_at: Offset of the frame's segment; 0 if it is not one of sequential Huffman coding.
        restart_interval: MCUs between restart markers; 0 if there are none.
    """

    starts: list[int]
    scan_start: int
    frame_at: int
    restart_interval: int


class Component(NamedTuple):
    """Colour component: sampling factors, and the numbers of its Huffman tables."""

    h: int
    v: int
    dc_table: int
    ac_table: int


class Header(NamedTuple):
    """Header of a JPEG with one baseline scan of all its components.

    Attributes:
        mcu_height, mcu_width: Size of an MCU in pixels.
        components: Colour components, one or three. The factors of a single one count as 1, because an MCU is
            then one block (T.81, A.2.2).
        size_at: Offset of the height, before the width, both of 16 bits.
        scan_start: Offset of the first byte of entropy-coded data.
        restart_interval: MCUs between restart markers; 0 if there are none.
    """

    height: int
    width: int
    mcu_height: int
    mcu_width: int
    components: tuple[Component, ...]
    size_at: int
    scan_start: int
    restart_interval: int

    @property
    def mcu_rows(self) -> int:
        """Number of rows of MCUs."""
        return -(-self.height // self.mcu_height)

    @property
    def mcus_per_row(self) -> int:
        """Number of MCUs in a row."""
        return -(-self.width // self.mcu_width)


def read_segments(data: bytes | memoryview) -> Segments | None:
    """Read the segments in front of the first scan; None if one is damaged or of an unknown kind."""
    if data[:2] != bytes([0xFF, SOI]):
        return None
    starts: list[int] = []
    frame_at = interval = 0
    start = 2
    try:
        while True:
            marker = data[start + 1]
            length = data[start + 2] << 8 | data[start + 3]
            if data[start] != 0xFF or length < 2 or marker not in _KNOWN:
                return None
            starts.append(start)
            if marker in _FRAMES:
                if frame_at:
                    return None
                frame_at = start
            elif marker == DRI:
                if length != 4 or interval:
                    return None
                interval = data[start + 4] << 8 | data[start + 5]
            start += 2 + length
            if marker == SOS:
                return Segments(starts, start, frame_at, interval)
    except IndexError:
        return None


def read_header(data: bytes | memoryview, segments: Segments) -> Header | None:
    """Read the header of a JPEG.

    Returns:
        Header; None if the JPEG is progressive, arithmetic-coded, of 12 bits, of several scans, of two or
        four components, or if other decoders may read it differently.
    """
    frame_at, scan_at = segments.frame_at, segments.starts[-1]
    if not frame_at or segments.scan_start > len(data):
        return None
    frame_length, precision, height, width, count = struct.unpack_from(">HBHHB", data, frame_at + 2)
    scan_length, in_scan = struct.unpack_from(">HB", data, scan_at + 2)
    expected = (8 + 3 * count, 6 + 2 * count)
    if precision != 8 or count not in (1, 3) or in_scan != count or (frame_length, scan_length) != expected:
        return None
    if not height or not width or data[segments.scan_start - 3 : segments.scan_start] != _WHOLE_SPECTRUM:
        return None
    components = []
    for number in range(count):
        name, sampling, _ = data[frame_at + 10 + 3 * number : frame_at + 13 + 3 * number]
        name_in_scan, tables = data[scan_at + 5 + 2 * number : scan_at + 7 + 2 * number]
        components.append(Component(sampling >> 4, sampling & 15, tables >> 4, tables & 15))
        if name != name_in_scan or max(tables >> 4, tables & 15) > 3:
            return None
    h_max, v_max = max(each.h for each in components), max(each.v for each in components)
    for each in components:
        if not (each.h and each.v) or h_max % each.h or v_max % each.v or max(h_max, v_max) > _MAX_SAMPLING:
            return None
    if count == 1:
        components, h_max, v_max = [components[0]._replace(h=1, v=1)], 1, 1
    if sum(each.h * each.v for each in components) > _MAX_MCU_BLOCKS:
        return None
    return Header(
        height,
        width,
        _BLOCK_PX * v_max,
        _BLOCK_PX * h_max,
        tuple(components),
        frame_at + 5,
        segments.scan_start,
        segments.restart_interval,
    )
