"""Two pictures of an archive's figures: how sure the teacher is, and where it agrees with the true labels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from teacher_cache.archive.figures.figures import BINS, Figures
from teacher_cache.program.chart import Panel, Series, chart_png

_WIDTH_PX, _HEIGHT_PX = 880, 440


def confidence_png(figures: Figures) -> bytes:
    """Return a histogram of the probability of the top class, and of the tail mass, over all views."""
    total = sum(figures.confidences)
    tops = [count / total for count in figures.confidences]
    tails = [count / total for count in figures.tails]
    panel = Panel(
        [_stairs("top class", tops), _stairs("outside the top k", tails)],
        "probability",
        "share of the views",
        x_range=(0, 1),
        y_range=(0, 1.05 * max(*tops, *tails)),
    )
    return chart_png([panel], _WIDTH_PX, _HEIGHT_PX)


def agreement_png(figures: Figures) -> bytes:
    """Return the agreement with the true labels by class, the lowest first, and its mean in each view."""
    pairs = zip(figures.agreement_C, figures.rows_C, strict=True)
    shares = sorted(share for share, rows in pairs if rows)
    places = [number / max(len(shares) - 1, 1) for number in range(len(shares))]
    panels = [
        Panel([Series("", places, shares)], "share of the classes", "views that agree", (0, 1), (0, 1)),
        Panel([Series("", figures.views, figures.agreement_V, is_line=False)], "view", y_range=(0, 1)),
    ]
    return chart_png(panels, _WIDTH_PX, _HEIGHT_PX)


def _stairs(label: str, shares: Sequence[float]) -> Series:
    """Return a histogram's outline: each bin is as wide as the others."""
    edges = [number / BINS for number in range(BINS + 1)]
    xs = [x for pair in itertools.pairwise(edges) for x in pair]
    return Series(label, xs, [share for share in shares for _ in range(2)])
