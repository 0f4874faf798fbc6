"""Resize uint8 pixels by an antialiased bicubic filter, to the bits of torch's uint8 `interpolate`.

The filter is Keys' cubic with a = -0.5, stretched by the scale where pictures are reduced. Weights are whole
multiples of 2^-p, with the largest p at which the largest weight of an axis stays below 2^15. Pictures are
resized along x, rounded to uint8, then resized along y (aten/src/ATen/native/cpu/UpSampleKernel.cpp,
`_compute_indices_min_size_weights_aa` and `_compute_index_ranges_int16_weights`). All sums are of integers,
so they are the same on every CPU. Only the wanted window of the resized picture is computed.

Shapes: pixels are (H, W, 3); T taps of a filter, N places of an axis's window.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from teacher_cache.exact.compiled import compiled

Pixels = npt.NDArray[np.uint8]
_KEYS_A = -0.5
_SUPPORT = 2.0
"""Half the width of the cubic filter, in pixels of the smaller of the two pictures."""
_STRIP = 64
"""Number of rows that are resized along x together, so that the inner loop reads memory sequentially."""


@compiled
def _cubic(x: float) -> float:
    """Return Keys' cubic at x >= 0, in the order of torch's operations (aten/src/ATen/native/UpSample.h)."""
    if x < 1:
        return ((_KEYS_A + 2) * x - (_KEYS_A + 3)) * x * x + 1
    if x < 2:
        return ((_KEYS_A * x - 5 * _KEYS_A) * x + 8 * _KEYS_A) * x - 4 * _KEYS_A
    return 0.0


@compiled
def _filters(
    source: int, target: int, start: int, stop: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int32], int]:
    """Return the filters of places [start, stop) on an axis of `source` pixels resized to `target`.

    Returns:
        The first source pixel of each filter (N,), the number of its taps (N,), its weights (N, T), and the
        fractional bits of the weights. The bits are chosen for the whole axis, so that a window has the same
        pixels as the whole resized picture.
    """
    scale = source / target
    support, inverse = (_SUPPORT * scale, 1 / scale) if scale >= 1 else (_SUPPORT, 1.0)
    taps = 2 * int(np.ceil(support)) + 1
    firsts, sizes = np.empty(target, np.int64), np.empty(target, np.int64)
    exact = np.zeros((target, taps))
    largest = 0.0
    for place in range(target):
        center = scale * (place + 0.5)
        first = max(int(center - support + 0.5), 0)
        size = min(min(int(center + support + 0.5), source) - first, taps)
        total = 0.0
        for tap in range(size):
            exact[place, tap] = _cubic(abs((tap + first - center + 0.5) * inverse))
            total += exact[place, tap]
        for tap in range(size):
            if total != 0:
                exact[place, tap] /= total
            largest = max(largest, exact[place, tap])
        firsts[place], sizes[place] = first, size
    bits = 0
    while bits < 22 and int(0.5 + largest * (1 << (bits + 1))) < 1 << 15:
        bits += 1
    weights_NT = np.zeros((stop - start, taps), np.int32)
    for place in range(start, stop):
        for tap in range(sizes[place]):
            scaled = exact[place, tap] * (1 << bits)
            weights_NT[place - start, tap] = int(scaled - 0.5) if scaled < 0 else int(scaled + 0.5)
    return firsts[start:stop].copy(), sizes[start:stop].copy(), weights_NT, bits


@compiled
def _weighted_sum(
    rows_RN: Pixels,
    first: int,
    size: int,
    weights_T: npt.NDArray[np.int32],
    bits: int,
    sums_N: npt.NDArray[np.int32],
    out_N: Pixels,
) -> None:
    """Write the weighted sum of rows [first, first + size), rounded and clamped to uint8.

    Four rows are added in one loop, so that each sum is loaded and stored a fourth as often.
    """
    shift, tap = np.int32(bits), 0
    sums_N[:] = np.int32(1 << (bits - 1))
    while tap + 4 <= size:
        w0, w1, w2, w3 = weights_T[tap], weights_T[tap + 1], weights_T[tap + 2], weights_T[tap + 3]
        a_N, b_N = rows_RN[first + tap], rows_RN[first + tap + 1]
        c_N, d_N = rows_RN[first + tap + 2], rows_RN[first + tap + 3]
        for n in range(len(out_N)):
            sums_N[n] += np.int32(
                np.int32(a_N[n]) * w0 + np.int32(b_N[n]) * w1 + np.int32(c_N[n]) * w2 + np.int32(d_N[n]) * w3
            )
        tap += 4
    while tap < size:
        w0, a_N = weights_T[tap], rows_RN[first + tap]
        for n in range(len(out_N)):
            sums_N[n] += np.int32(np.int32(a_N[n]) * w0)
        tap += 1
    for n in range(len(out_N)):
        out_N[n] = min(max(sums_N[n] >> shift, np.int32(0)), np.int32(255))


@compiled
def _resize(pixels_HWC: Pixels, height: int, width: int, top: int, left: int, window_HWC: Pixels) -> None:
    """Write the window at (top, left) of the pixels resized to (height, width)."""
    rows, columns = window_HWC.shape[0], window_HWC.shape[1]
    ys_N, y_sizes_N, y_weights_NT, y_bits = _filters(pixels_HWC.shape[0], height, top, top + rows)
    xs_N, x_sizes_N, x_weights_NT, x_bits = _filters(pixels_HWC.shape[1], width, left, left + columns)
    first_y, first_x = ys_N[0], xs_N[0]
    box_HWC = pixels_HWC[first_y : ys_N[-1] + y_sizes_N[-1], first_x : xs_N[-1] + x_sizes_N[-1]]
    num_rows, num_columns = box_HWC.shape[0], box_HWC.shape[1]
    strip_WSC = np.empty((num_columns, _STRIP, 3), np.uint8)
    narrow_WSC = np.empty((columns, _STRIP, 3), np.uint8)
    narrow_HWC = np.empty((num_rows, columns, 3), np.uint8)
    strip_WN, narrow_WN = strip_WSC.reshape(-1, 3 * _STRIP), narrow_WSC.reshape(-1, 3 * _STRIP)
    narrow_HN, out_HN = narrow_HWC.reshape(-1, 3 * columns), window_HWC.reshape(-1, 3 * columns)
    sums_N = np.empty(max(3 * _STRIP, 3 * columns), np.int32)
    for y in range(0, num_rows, _STRIP):
        count = min(_STRIP, num_rows - y)
        for row in range(count):
            for x in range(num_columns):
                strip_WSC[x, row, 0] = box_HWC[y + row, x, 0]
                strip_WSC[x, row, 1] = box_HWC[y + row, x, 1]
                strip_WSC[x, row, 2] = box_HWC[y + row, x, 2]
        for x in range(columns):
            _weighted_sum(
                strip_WN, xs_N[x] - first_x, x_sizes_N[x], x_weights_NT[x], x_bits,
                sums_N[: 3 * count], narrow_WN[x, : 3 * count],
            )  # fmt: skip
        for row in range(count):
            for x in range(columns):
                narrow_HWC[y + row, x, 0] = narrow_WSC[x, row, 0]
                narrow_HWC[y + row, x, 1] = narrow_WSC[x, row, 1]
                narrow_HWC[y + row, x, 2] = narrow_WSC[x, row, 2]
    for row in range(rows):
        _weighted_sum(
            narrow_HN, ys_N[row] - first_y, y_sizes_N[row], y_weights_NT[row], y_bits,
            sums_N[: 3 * columns], out_HN[row],
        )  # fmt: skip


def resized(
    pixels_HWC: Pixels, height: int, width: int, top: int, left: int, rows: int, columns: int
) -> Pixels:
    """Return a window of a picture that is resized to (height, width).

    Args:
        pixels_HWC: Picture, uint8 RGB, of any strides.
        height: Height of the resized picture in pixels.
        width: Width of the resized picture in pixels.
        top: First row of the window in the resized picture.
        left: First column of the window in the resized picture.
        rows: Height of the window, which lies inside the resized picture.
        columns: Width of the window.

    Returns:
        uint8 (rows, columns, 3), C-contiguous.
    """
    if pixels_HWC.shape[:2] == (height, width):  # the filters would change no bit
        return np.ascontiguousarray(pixels_HWC[top : top + rows, left : left + columns])
    window_HWC = np.empty((rows, columns, 3), np.uint8)
    _resize(pixels_HWC, height, width, top, left, window_HWC)
    return window_HWC
