"""Ops on uint8 pixels, by name, applied one after another in few passes.

An op whose result depends only on one channel's value is a table of 256 values. Tables are composed and then
applied to the pixels once; ops that read neighbours or other channels run the compiled loops of kernels.py.
The reference is the functions of the same names in timm/data/auto_augment.py, which call Pillow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from teacher_cache.exact import portable
from teacher_cache.views import kernels, warps
from teacher_cache.views.kernels import Pixels
from teacher_cache.views.sampling import PixelOp
from teacher_cache.views.warps import FRACTION_BITS

_VALUES = np.arange(256)
_IDENTITY_C256: Pixels = np.tile(_VALUES.astype(np.uint8), (3, 1))
_BLUR_PASSES = 3


class Canvas:
    """View that ops are applied to: its pixels, and the lookup tables that have not been applied to them yet.

    Args:
        pixels_HWC: Pixels of the view, uint8 (S, S, 3), C-contiguous.
        fill: Red, green and blue of pixels that come from outside.
    """

    def __init__(self, pixels_HWC: Pixels, fill: Sequence[float]) -> None:
        self._pixels_HWC = pixels_HWC
        self._tables_C256 = _IDENTITY_C256
        self.fill_C: Pixels = np.array(fill, np.uint8)

    @property
    def size(self) -> int:
        """Side of the view in pixels."""
        return self._pixels_HWC.shape[0]

    def look_up(self, table_256: npt.NDArray[Any]) -> None:
        """Map every pixel through a table of values from 0 to 255."""
        self._tables_C256 = table_256.astype(np.uint8)[self._tables_C256]

    def look_up_by_channel(self, tables_C256: Sequence[npt.NDArray[Any]]) -> None:
        """Map every pixel through its channel's table."""
        pairs = zip(tables_C256, self._tables_C256, strict=True)
        self._tables_C256 = np.stack([table.astype(np.uint8)[before] for table, before in pairs])

    def histogram(self) -> npt.NDArray[np.int64]:
        """Return the counts of each channel's values: (3, 256)."""
        counts_C256 = kernels.histogram(self._pixels_HWC)
        if self._tables_C256 is _IDENTITY_C256:
            return counts_C256
        pairs = zip(self._tables_C256, counts_C256, strict=True)
        pushed = [np.bincount(table, weights=counts, minlength=256) for table, counts in pairs]
        return np.stack(pushed).astype(np.int64)

    def mean_luma(self) -> int:
        """Return the mean of the pixels' luma, rounded half up."""
        count = self.size * self.size
        return (2 * kernels.luma_sum(self._pixels_HWC, self._tables_C256) + count) // (2 * count)

    def redraw(self, draw: Callable[[Pixels, Pixels], None]) -> None:
        """Apply the pending tables, and replace the pixels by those that draw(pixels_HWC, out_HWC) writes."""
        present_HWC = self._pixels_HWC
        if self._tables_C256 is not _IDENTITY_C256:
            present_HWC = np.empty_like(present_HWC)
            self.finish(present_HWC)
        self._pixels_HWC, self._tables_C256 = np.empty_like(present_HWC), _IDENTITY_C256
        draw(present_HWC, self._pixels_HWC)

    def finish(self, out_HWC: Pixels) -> None:
        """Write the view into `out_HWC`."""
        if self._tables_C256 is _IDENTITY_C256:
            out_HWC[...] = self._pixels_HWC
        else:
            kernels.apply_tables(self._pixels_HWC, self._tables_C256, out_HWC)


def draw_view(pixels_HWC: Pixels, ops: Sequence[PixelOp], fill: Sequence[float], out_HWC: Pixels) -> None:
    """Apply ops to pixels, one after the other, and write the view.

    Args:
        pixels_HWC: Pixels to start from, uint8 (S, S, 3), C-contiguous.
        ops: Names of OPS, with their amounts.
        fill: Red, green and blue of pixels that an affine op brings in from outside.
        out_HWC: Pixels of the view, uint8 (S, S, 3), C-contiguous.
    """
    canvas = Canvas(pixels_HWC, fill)
    for op in ops:
        OPS[op.name](canvas, op.amount)
    canvas.finish(out_HWC)


def _auto_contrast(canvas: Canvas, _: float) -> None:
    """Stretch each channel's values over 0 to 255: ImageOps.autocontrast."""
    canvas.look_up_by_channel([_stretched(counts) for counts in canvas.histogram()])


def _stretched(counts_256: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    present = counts_256.nonzero()[0]
    low, high = int(present[0]), int(present[-1])
    return np.clip((_VALUES - low) * 255 // (high - low), 0, 255) if high > low else _VALUES


def _equalize(canvas: Canvas, _: float) -> None:
    """Make each channel's values equally frequent: ImageOps.equalize."""
    canvas.look_up_by_channel([_equalized(counts) for counts in canvas.histogram()])


def _equalized(counts_256: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    below_256 = np.cumsum(counts_256)
    last = int(counts_256.nonzero()[0][-1])
    step = int(below_256[-1] - counts_256[last]) // 255
    return np.minimum((step // 2 + below_256 - counts_256) // step, 255) if step else _VALUES


def _invert(canvas: Canvas, _: float) -> None:
    canvas.look_up(255 - _VALUES)


def _posterize(canvas: Canvas, bits: float) -> None:
    """Keep the upper bits of each value; 0 bits give black, where Pillow 13 raises an error."""
    canvas.look_up(_VALUES & (0xFF00 >> int(bits)))


def _solarize(canvas: Canvas, threshold: float) -> None:
    canvas.look_up(np.where(threshold > _VALUES, _VALUES, 255 - _VALUES))


def _solarize_add(canvas: Canvas, addition: float) -> None:
    canvas.look_up(np.where(_VALUES < 128, np.minimum(_VALUES + int(addition), 255), _VALUES))


def _brightness(canvas: Canvas, factor: float) -> None:
    canvas.look_up(_blend_table(0, factor))


def _contrast(canvas: Canvas, factor: float) -> None:
    canvas.look_up(_blend_table(canvas.mean_luma(), factor))


def _blend_table(low: int, factor: float) -> npt.NDArray[np.int64]:
    return np.clip(((low << 16) + _q16(factor) * (_VALUES - low)) >> 16, 0, 255)


def _q16(factor: float) -> int:
    return round(factor * 65536)


def _color(canvas: Canvas, factor: float) -> None:
    canvas.redraw(lambda pixels, out: kernels.blend_with_luma(_flat(pixels), _q16(factor), _flat(out)))


def _sharpness(canvas: Canvas, factor: float) -> None:
    canvas.redraw(lambda pixels, out: kernels.blend_with_smooth(_flat(pixels), _q16(factor), _flat(out)))


def _gaussian_blur(canvas: Canvas, radius: float) -> None:
    """Approximate a Gaussian blur by three box blurs of its variance, as ImageFilter.GaussianBlur does."""
    variance = radius * radius / _BLUR_PASSES
    whole = math.floor((math.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    whole_q24 = int((1 << 24) / (2 * (whole + part) + 1))
    edge_q24 = ((1 << 24) - (2 * whole + 1) * whole_q24) // 2
    weights = float(whole_q24), float(edge_q24)

    def blur(pixels_HWC: Pixels, out_HWC: Pixels) -> None:
        out_HWC[...] = pixels_HWC
        kernels.blur_rows(_flat(out_HWC), whole, *weights, _BLUR_PASSES)
        kernels.blur_columns(_flat(out_HWC), whole, *weights, _BLUR_PASSES)

    canvas.redraw(blur)


def _rotate(canvas: Canvas, degrees: float) -> None:
    """Turn around the middle, counter-clockwise: Image.rotate."""
    sine, cosine = portable.sin_cos(-math.pi * degrees / 180)
    middle = canvas.size / 2
    shift_x = middle - middle * (cosine + sine)
    shift_y = middle - middle * (cosine - sine)
    matrix_6 = _fixed(np.array([cosine, sine, shift_x, -sine, cosine, shift_y]))
    canvas.redraw(lambda pixels, out: warps.affine(_flat(pixels), matrix_6, canvas.fill_C, _flat(out)))


def _shear_x(canvas: Canvas, slope: float) -> None:
    _shift_rows(canvas, slope * (np.arange(canvas.size) + 0.5))


def _shear_y(canvas: Canvas, slope: float) -> None:
    offsets = _fixed(slope * (np.arange(canvas.size) + 0.5))
    canvas.redraw(lambda pixels, out: warps.shift_columns(_flat(pixels), offsets, canvas.fill_C, _flat(out)))


def _translate_x(canvas: Canvas, share: float) -> None:
    _shift_rows(canvas, np.full(canvas.size, share * canvas.size))


def _translate_y(canvas: Canvas, share: float) -> None:
    offset = int(_fixed(np.array(share * canvas.size)))
    canvas.redraw(
        lambda pixels, out: warps.translate_columns(_flat(pixels), offset, canvas.fill_C, _flat(out))
    )


def _shift_rows(canvas: Canvas, offsets_px: npt.NDArray[np.floating[Any]]) -> None:
    offsets = _fixed(offsets_px)
    canvas.redraw(lambda pixels, out: warps.shift_rows(_flat(pixels), offsets, canvas.fill_C, _flat(out)))


def _fixed(values: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]:
    return np.rint(values * (1 << FRACTION_BITS)).astype(np.int64)


def _flat(pixels_HWC: Pixels) -> Pixels:
    return pixels_HWC.reshape(pixels_HWC.shape[0], -1)


OPS: Mapping[str, Callable[[Canvas, float], None]] = {
    "auto_contrast": _auto_contrast,
    "equalize": _equalize,
    "invert": _invert,
    "posterize": _posterize,
    "solarize": _solarize,
    "solarize_add": _solarize_add,
    "brightness": _brightness,
    "contrast": _contrast,
    "color": _color,
    "sharpness": _sharpness,
    "gaussian_blur": _gaussian_blur,
    "rotate": _rotate,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}
"""Ops by name. Amounts: bits kept (posterize), threshold (solarize), number added (solarize_add), factor with
1 for no change (brightness to sharpness), standard deviation in pixels (gaussian_blur), degrees (rotate),
slope (shear), share of the side (translate); the first three ops take none."""
