"""Integer loops that move pixels, compiled by numba: shifts of rows and columns, and affine maps."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from teacher_cache.exact.compiled import compiled
from teacher_cache.views.kernels import Pixels

FRACTION_BITS = 24


_TABLE_BITS = 10


_TABLE_SHIFT = FRACTION_BITS - _TABLE_BITS


_TABLE_MASK = (1 << _TABLE_BITS) - 1


_WEIGHT_BITS = 12


_HALF = 1 << (FRACTION_BITS - 1)


_UNIT = np.float32(2.0**-_WEIGHT_BITS)


_NEXT = np.uintp(1)


_UNIT_SQUARED = 2.0 ** (-2 * _WEIGHT_BITS)


def _bicubic_weights() -> npt.NDArray[np.float64]:
    """Return the weights of the four neighbours at each of 1024 fractions: integers that sum to 4096."""
    d = np.arange(1 << _TABLE_BITS) / (1 << _TABLE_BITS)
    exact = np.stack([-d + 2 * d**2 - d**3, 1 - 2 * d**2 + d**3, d + d**2 - d**3, -(d**2) + d**3], axis=1)
    weights = np.rint(exact * (1 << _WEIGHT_BITS))
    weights[:, 1] += (1 << _WEIGHT_BITS) - weights.sum(1)
    return weights


_WEIGHTS_F64 = _bicubic_weights()


_WEIGHTS_F32 = _WEIGHTS_F64.astype(np.float32)


@compiled
def _inside(offset: int, size: int) -> tuple[int, int]:
    """Return the range [first, stop) of p in [0, size) whose source p + 1/2 + offset is in [0, size) too."""
    first = min(max(-((offset + _HALF) >> FRACTION_BITS), 0), size)
    stop = min(max(-((offset + _HALF - (size << FRACTION_BITS)) >> FRACTION_BITS), first), size)
    return first, stop


@compiled
def _weigh(
    r0: Pixels, r1: Pixels, r2: Pixels, r3: Pixels, weights_4: npt.NDArray[np.float32], out: Pixels
) -> None:
    """Write the sums of four neighbours, weighted by `weights_4`, into `out`, clamped to uint8, truncated."""
    w0, w1, w2, w3 = weights_4[0], weights_4[1], weights_4[2], weights_4[3]
    for i in range(len(out)):
        total = (
            w0 * np.float32(r0[i]) + w1 * np.float32(r1[i]) + w2 * np.float32(r2[i]) + w3 * np.float32(r3[i])
        )
        out[i] = np.uint8(np.int32(min(max(total * _UNIT, np.float32(0)), np.float32(255))))


@compiled
def shift_rows(flat: Pixels, offsets_H: npt.NDArray[np.int64], fill_C: Pixels, out_flat: Pixels) -> None:
    """Move pixel (y, x + offsets[y]) to (y, x), offsets in 2^-24 pixels: shear or translation in x."""
    height, width_3 = flat.shape
    width = width_3 // 3
    for y in range(height):
        offset = offsets_H[y]
        first, stop = _inside(offset, width)
        whole = offset >> FRACTION_BITS
        weights = _WEIGHTS_F32[(offset >> _TABLE_SHIFT) & _TABLE_MASK]
        row, out = flat[y], out_flat[y]
        for outside in (range(first), range(stop, width)):
            for x in outside:
                for c in range(3):
                    out[3 * x + c] = fill_C[c]
        inner = min(max(first, 1 - whole), stop)
        inner_stop = max(inner, min(stop, width - 2 - whole))
        count = 3 * (inner_stop - inner)
        if count > 0:
            start = 3 * (inner + whole - 1)
            r0, r1 = row[start : start + count], row[start + 3 : start + 3 + count]
            r2, r3 = row[start + 6 : start + 6 + count], row[start + 9 : start + 9 + count]
            _weigh(r0, r1, r2, r3, weights, out[3 * inner : 3 * inner + count])
        for edge in (range(first, inner), range(inner_stop, stop)):
            for x in edge:
                for c in range(3):
                    total = np.float32(0)
                    for k in range(4):
                        neighbour = min(max(x + whole + k - 1, 0), width - 1)
                        total += weights[k] * np.float32(row[3 * neighbour + c])
                    out[3 * x + c] = np.uint8(min(max(total * _UNIT, np.float32(0)), np.float32(255)))


@compiled
def shift_columns(flat: Pixels, offsets_W: npt.NDArray[np.int64], fill_C: Pixels, out_flat: Pixels) -> None:
    """Move pixel (y + offsets[x], x) to (y, x), offsets in 2^-24 pixels: shear in y.

    First columns move by whole pixels, adjacent ones with the same whole offset together; then each row is
    interpolated by the fractions.
    """
    height, width_3 = flat.shape
    weights = np.empty((4, width_3), np.float32)
    shifted = np.empty((height + 3, width_3), np.uint8)
    start = 0
    for x in range(width_3 // 3):
        for i in range(3 * x, 3 * x + 3):
            weights[:, i] = _WEIGHTS_F32[(offsets_W[x] >> _TABLE_SHIFT) & _TABLE_MASK]
        whole = offsets_W[x] >> FRACTION_BITS
        if x + 1 < width_3 // 3 and offsets_W[x + 1] >> FRACTION_BITS == whole:
            continue
        for y in range(height + 3):
            row = flat[min(max(y - 1 + whole, 0), height - 1)]
            for i in range(start, 3 * x + 3):
                shifted[y, i] = row[i]
        start = 3 * x + 3
    w0, w1, w2, w3 = weights
    for y in range(height):
        out = out_flat[y]
        r0, r1, r2, r3 = shifted[y], shifted[y + 1], shifted[y + 2], shifted[y + 3]
        for i in range(width_3):
            total = (
                w0[i] * np.float32(r0[i])
                + w1[i] * np.float32(r1[i])
                + w2[i] * np.float32(r2[i])
                + w3[i] * np.float32(r3[i])
            )
            out[i] = np.uint8(np.int32(min(max(total * _UNIT, np.float32(0)), np.float32(255))))
    for x in range(width_3 // 3):
        first, stop = _inside(offsets_W[x], height)
        for outside in (range(first), range(stop, height)):
            for y in outside:
                for c in range(3):
                    out_flat[y, 3 * x + c] = fill_C[c]


@compiled
def translate_columns(flat: Pixels, offset: int, fill_C: Pixels, out_flat: Pixels) -> None:
    """Move pixel (y + offset, x) to (y, x), the offset in 2^-24 pixels; see `shift_columns`."""
    height, width_3 = flat.shape
    first, stop = _inside(offset, height)
    top = (offset >> FRACTION_BITS) - 1
    weights = _WEIGHTS_F32[(offset >> _TABLE_SHIFT) & _TABLE_MASK]
    for y in range(height):
        out = out_flat[y]
        if not first <= y < stop:
            for x in range(width_3 // 3):
                for c in range(3):
                    out[3 * x + c] = fill_C[c]
            continue
        r0, r1 = flat[min(max(y + top, 0), height - 1)], flat[min(max(y + top + 1, 0), height - 1)]
        r2, r3 = flat[min(max(y + top + 2, 0), height - 1)], flat[min(max(y + top + 3, 0), height - 1)]
        _weigh(r0, r1, r2, r3, weights, out)


@compiled
def affine(flat: Pixels, matrix_6: npt.NDArray[np.int64], fill_C: Pixels, out_flat: Pixels) -> None:
    """Fill pixel (y, x) from the source point M (x + 1/2, y + 1/2, 1), M's six numbers in 2^-24 pixels.

    Integers are held in float64, whose products are faster; sums stay below 2^53 and so are exact.
    """
    height, width_3 = flat.shape
    width = width_3 // 3
    a, b, c, d, e, f = matrix_6
    pixels = flat.astype(np.float64).ravel()
    stride = np.uintp(width_3)
    for y in range(height):
        row_x, row_y = (a + b * (2 * y + 1) + 2 * c) >> 1, (d + e * (2 * y + 1) + 2 * f) >> 1
        out = out_flat[y]
        for x in range(width):
            source_x, source_y = row_x + a * x, row_y + d * x
            i = np.uintp(3 * x)
            if not (0 <= source_x < width << FRACTION_BITS and 0 <= source_y < height << FRACTION_BITS):
                for k in range(3):
                    out[i + np.uintp(k)] = fill_C[k]
                continue
            source_x -= _HALF
            source_y -= _HALF
            left, top = (source_x >> FRACTION_BITS) - 1, (source_y >> FRACTION_BITS) - 1
            across = np.uintp((source_x >> _TABLE_SHIFT) & _TABLE_MASK)
            down = np.uintp((source_y >> _TABLE_SHIFT) & _TABLE_MASK)
            w0, w1 = _WEIGHTS_F64[across, 0], _WEIGHTS_F64[across, 1]
            w2, w3 = _WEIGHTS_F64[across, 2], _WEIGHTS_F64[across, 3]
            x0, x1 = np.uintp(3 * max(left, 0)), np.uintp(3 * max(left + 1, 0))
            x2, x3 = np.uintp(3 * min(left + 2, width - 1)), np.uintp(3 * min(left + 3, width - 1))
            red = green = blue = 0.0
            for k in range(4):
                row = np.uintp(min(max(top + k, 0), height - 1)) * stride
                w = _WEIGHTS_F64[down, k]
                p0, p1, p2, p3 = row + x0, row + x1, row + x2, row + x3
                red += w * (w0 * pixels[p0] + w1 * pixels[p1] + w2 * pixels[p2] + w3 * pixels[p3])
                p0, p1, p2, p3 = p0 + _NEXT, p1 + _NEXT, p2 + _NEXT, p3 + _NEXT
                green += w * (w0 * pixels[p0] + w1 * pixels[p1] + w2 * pixels[p2] + w3 * pixels[p3])
                p0, p1, p2, p3 = p0 + _NEXT, p1 + _NEXT, p2 + _NEXT, p3 + _NEXT
                blue += w * (w0 * pixels[p0] + w1 * pixels[p1] + w2 * pixels[p2] + w3 * pixels[p3])
            out[i] = np.uint8(np.int32(min(max(red * _UNIT_SQUARED, 0.0), 255.0)))
            out[i + _NEXT] = np.uint8(np.int32(min(max(green * _UNIT_SQUARED, 0.0), 255.0)))
            out[i + _NEXT + _NEXT] = np.uint8(np.int32(min(max(blue * _UNIT_SQUARED, 0.0), 255.0)))
