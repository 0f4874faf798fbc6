"""Charts of a few series as PNG, drawn with Pillow, which is imported ten times faster than matplotlib."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_COLORS = ("#1f77b4", "#d95f02", "#2ca02c", "#c2185b", "#7e57c2", "#6d4c41", "#00838f", "#827717")
_INK, _GRID = "#333333", "#dddddd"
_OVERSAMPLING = 2
"""Pixels drawn per output pixel along each axis, because Pillow draws lines without antialiasing."""
_FONT_PX, _LEFT_PX, _RIGHT_PX, _TOP_PX, _BOTTOM_PX = 13, 58, 14, 12, 44
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
"""Distances of ticks, times a power of ten."""


@dataclasses.dataclass(frozen=True)
class Series:
    """Points of a chart.

    Attributes:
        label: Name in the legend; a series with an empty label is left out of the legend.
        is_line: Whether the points are joined by a line; otherwise each is a dot.
    """

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    is_line: bool = True


@dataclasses.dataclass(frozen=True)
class Panel:
    """Chart with axes of its own.

    Attributes:
        series: Series in the order of their colours.
        xlabel, ylabel: Titles of the axes.
        x_range, y_range: Ends of the axes; from the series by default.
    """

    series: Sequence[Series]
    xlabel: str
    ylabel: str = ""
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None


def chart_png(panels: Sequence[Panel], width_px: int, height_px: int) -> bytes:
    """Return panels side by side as a PNG."""
    scale = _OVERSAMPLING
    picture = Image.new("RGB", (width_px * scale, height_px * scale), "white")
    share = width_px // len(panels)
    for number, panel in enumerate(panels):
        _Drawing(picture, panel, left_px=number * share, width_px=share, height_px=height_px).draw()
    with io.BytesIO() as buffer:
        picture.resize((width_px, height_px), Image.Resampling.LANCZOS).save(buffer, "PNG", optimize=True)
        return buffer.getvalue()


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers from `low` to `high`, at most `most`, at equal distances."""
    span = high - low
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * step for step in _STEPS if span / (power * step) <= most - 1 or step == _STEPS[-1])
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


class _Drawing:
    """One panel on a picture, in the picture's own, finer, pixels."""

    def __init__(
        self, picture: Image.Image, panel: Panel, *, left_px: int, width_px: int, height_px: int
    ) -> None:
        scale = _OVERSAMPLING
        self._panel, self._draw = panel, ImageDraw.Draw(picture)
        self._font = ImageFont.load_default(_FONT_PX * scale)
        self._left, self._right = (left_px + _LEFT_PX) * scale, (left_px + width_px - _RIGHT_PX) * scale
        self._top, self._bottom = _TOP_PX * scale, (height_px - _BOTTOM_PX) * scale
        xs = [x for series in panel.series for x in series.xs]
        ys = [y for series in panel.series for y in series.ys]
        self._x_low, self._x_high = panel.x_range or _range_of(xs)
        self._y_low, self._y_high = panel.y_range or _range_of(ys)

    def draw(self) -> None:
        self._axes()
        for number, series in enumerate(self._panel.series):
            self._series(series, _COLORS[number % len(_COLORS)])
        self._legend()

    def _axes(self) -> None:
        scale = _OVERSAMPLING
        for x in ticks(self._x_low, self._x_high):
            place = self._x(x)
            self._draw.line([(place, self._top), (place, self._bottom)], _GRID, scale)
            self._text(place, self._bottom + 4 * scale, f"{x:,.6g}", "ma")
        for y in ticks(self._y_low, self._y_high):
            place = self._y(y)
            self._draw.line([(self._left, place), (self._right, place)], _GRID, scale)
            self._text(self._left - 5 * scale, place, f"{y:,.6g}", "rm")
        corners = [(self._left, self._top), (self._left, self._bottom), (self._right, self._bottom)]
        self._draw.line(corners, _INK, scale)
        self._text((self._left + self._right) / 2, self._bottom + 22 * scale, self._panel.xlabel, "ma")
        self._text(self._left + 6 * scale, self._top, self._panel.ylabel, "la")

    def _series(self, series: Series, color: str) -> None:
        points = [(self._x(x), self._y(y)) for x, y in zip(series.xs, series.ys, strict=True)]
        if series.is_line and len(points) > 1:
            self._draw.line(points, color, 2 * _OVERSAMPLING, joint="curve")
        else:
            radius = 2 * _OVERSAMPLING
            for x, y in points:
                self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), color)

    def _legend(self) -> None:
        scale = _OVERSAMPLING
        for number, series in enumerate(self._panel.series):
            if series.label:
                y = self._top + (number + 1) * (_FONT_PX + 5) * scale
                color = _COLORS[number % len(_COLORS)]
                width = self._draw.textlength(series.label, self._font)
                text_left = self._right - 6 * scale - width
                self._draw.line([(text_left - 26 * scale, y), (text_left - 6 * scale, y)], color, 3 * scale)
                self._text(text_left, y, series.label, "lm")

    def _text(self, x: float, y: float, text: str, anchor: str) -> None:
        self._draw.text((x, y), text, _INK, self._font, anchor)

    def _x(self, x: float) -> float:
        return self._left + (x - self._x_low) / (self._x_high - self._x_low) * (self._right - self._left)

    def _y(self, y: float) -> float:
        return self._bottom - (y - self._y_low) / (self._y_high - self._y_low) * (self._bottom - self._top)


def _range_of(values: Sequence[float]) -> tuple[float, float]:
    """Return the ends of an axis with a margin; around 0 without a value."""
    low, high = min(values, default=-1.0), max(values, default=1.0)
    margin = 0.04 * (high - low) or max(abs(high), 1.0) * 0.04
    return low - margin, high + margin
