"""Loops over uint8 pixels, compiled by numba: the same bits on every CPU, because every number is an integer.

Interpolation weights are whole multiples of 1 / 4096. Some integers are held in float32 or float64, so that
the compiler can vectorise; their sums stay below 2^24 or 2^53, and so are exact in any order. Coordinates
have 24 fractional bits. Pixels are (H, W, 3), C-contiguous; `flat` is the same memory as (H, 3 W). A signed
index that may be negative stops numba from vectorising: hence the slices and the unsigned indices.

Interpolation is Pillow's bicubic of Image.transform (Keys' kernel with a = -1, libImaging/Geometry.c), which
is what timm's affine ops use: neighbours outside are clamped, pixels from outside are `fill`, and the result
is truncated, not rounded.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from teacher_cache.exact.compiled import compiled

Pixels = npt.NDArray[np.uint8]
_NEXT = np.uintp(1)


@compiled
def histogram(pixels_HWC: Pixels) -> npt.NDArray[np.int64]:
    """Count the values of each channel: int64 (3, 256)."""
    counts_C256 = np.zeros((3, 256), np.int64)
    height, width, _ = pixels_HWC.shape
    for y in range(height):
        for x in range(width):
            counts_C256[0, pixels_HWC[y, x, 0]] += 1
            counts_C256[1, pixels_HWC[y, x, 1]] += 1
            counts_C256[2, pixels_HWC[y, x, 2]] += 1
    return counts_C256


@compiled
def apply_tables(pixels_HWC: Pixels, tables_C256: Pixels, out_HWC: Pixels) -> None:
    """Look every pixel up in its channel's table."""
    height, width, _ = pixels_HWC.shape
    for y in range(height):
        for x in range(width):
            out_HWC[y, x, 0] = tables_C256[0, pixels_HWC[y, x, 0]]
            out_HWC[y, x, 1] = tables_C256[1, pixels_HWC[y, x, 1]]
            out_HWC[y, x, 2] = tables_C256[2, pixels_HWC[y, x, 2]]


@compiled
def _luma(red: int, green: int, blue: int) -> int:
    """Return Pillow's conversion to "L": ITU-R 601-2 in 16-bit fixed point (libImaging/Convert.c)."""
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


@compiled
def luma_sum(pixels_HWC: Pixels, tables_C256: Pixels) -> int:
    """Return the sum of the luma of all pixels, after looking them up in tables."""
    height, width, _ = pixels_HWC.shape
    total = 0
    for y in range(height):
        for x in range(width):
            total += _luma(
                tables_C256[0, pixels_HWC[y, x, 0]],
                tables_C256[1, pixels_HWC[y, x, 1]],
                tables_C256[2, pixels_HWC[y, x, 2]],
            )
    return total


@compiled
def _blend(low: int, high: int, factor_q16: int) -> int:
    """Return low + factor * (high - low), clipped and truncated, as in Pillow's Image.blend."""
    return min(max(((low << 16) + factor_q16 * (high - low)) >> 16, 0), 255)


@compiled
def blend_with_luma(flat: Pixels, factor_q16: int, out_flat: Pixels) -> None:
    """Write every pixel moved towards its luma (factor below 1) or away from it (above 1) into `out_flat`.

    The compiler vectorises 32-bit integers eight at a time; they do not overflow for factors up to 2.
    """
    height, width_3 = flat.shape
    factor, shift = np.int32(factor_q16), np.int32(16)
    grey = np.empty(width_3, np.int32)
    for y in range(height):
        row, out = flat[y], out_flat[y]
        for x in range(width_3 // 3):
            i = np.uintp(3 * x)
            luma = _luma(row[i], row[i + _NEXT], row[i + _NEXT + _NEXT])
            grey[i], grey[i + _NEXT], grey[i + _NEXT + _NEXT] = luma, luma, luma
        for k in range(width_3):
            blended = ((grey[k] << shift) + factor * (np.int32(row[k]) - grey[k])) >> shift
            out[k] = np.uint8(min(max(blended, np.int32(0)), np.int32(255)))


@compiled
def blend_with_smooth(flat: Pixels, factor_q16: int, out_flat: Pixels) -> None:
    """Write every pixel moved towards the mean around it, or away from it; border pixels are only copied.

    The mean gives the pixel itself weight 5 and its eight neighbours 1 each: Pillow's ImageFilter.SMOOTH.
    """
    height, width_3 = flat.shape
    out_flat[0] = flat[0]
    out_flat[height - 1] = flat[height - 1]
    count = width_3 - 6
    for y in range(1, height - 1):
        out_flat[y, :3] = flat[y, :3]
        out_flat[y, width_3 - 3 :] = flat[y, width_3 - 3 :]
        above, here, below = flat[y - 1], flat[y], flat[y + 1]
        a0, a1, a2 = above[:count], above[3 : 3 + count], above[6:]
        h0, h1, h2 = here[:count], here[3 : 3 + count], here[6:]
        b0, b1, b2 = below[:count], below[3 : 3 + count], below[6:]
        out = out_flat[y, 3 : 3 + count]
        for i in range(count):
            around = (
                np.int32(a0[i]) + a1[i] + a2[i] + h0[i] + h2[i] + np.int32(b0[i]) + b1[i] + b2[i] + 5 * h1[i]
            )
            out[i] = _blend((2 * around + 13) // 26, int(h1[i]), factor_q16)


@compiled
def _box_blur(lines: Pixels, step: int, whole_q24: float, edge_q24: float, out: Pixels) -> None:
    """Write weighted sums of neighbours `step` values apart: `edge_q24` weighs the first and last of each."""
    count = len(out)
    last = len(lines) - count
    totals = np.zeros(count, np.float64)
    for start in range(step, last, step):
        whole = lines[start : start + count]
        for i in range(count):
            totals[i] += whole[i]
    first_edge, last_edge = lines[:count], lines[last:]
    for i in range(count):
        edges = np.float64(np.int32(first_edge[i]) + np.int32(last_edge[i]))
        total = totals[i] * whole_q24 + edges * edge_q24
        out[i] = np.uint8(np.int32((total + 2.0**23) * 2.0**-24))


@compiled
def blur_rows(flat: Pixels, radius: int, whole_q24: float, edge_q24: float, passes: int) -> None:
    """Blur every row in place by a box of 2 radius + 1 whole pixels and two partial ones, `passes` times.

    The weights are integers in units of 2^-24, held in float64, where sums stay below 2^53 and so are exact.
    The edge is repeated, and every pass rounds: Pillow's libImaging/BoxBlur.c.
    """
    height, width_3 = flat.shape
    margin = 3 * (radius + 1)
    padded = np.empty(width_3 + 2 * margin, np.uint8)
    for y in range(height):
        for _ in range(passes):
            padded[margin : margin + width_3] = flat[y]
            for i in range(margin):
                padded[i] = flat[y, i % 3]
                padded[margin + width_3 + i] = flat[y, width_3 - 3 + i % 3]
            _box_blur(padded, 3, whole_q24, edge_q24, flat[y])


@compiled
def blur_columns(flat: Pixels, radius: int, whole_q24: float, edge_q24: float, passes: int) -> None:
    """Blur every column in place; see `blur_rows`."""
    height, width_3 = flat.shape
    padded = np.empty((height + 2 * (radius + 1), width_3), np.uint8)
    for _ in range(passes):
        for y in range(len(padded)):
            padded[y] = flat[min(max(y - radius - 1, 0), height - 1)]
        for y in range(height):
            around = padded[y : y + 2 * radius + 3].ravel()
            _box_blur(around, width_3, whole_q24, edge_q24, flat[y])
