"""Two pictures of an archive's figures: how sure the teacher is, and where it agrees with the true labels."""

from __future__ import annotations

import io
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from teacher_cache.sharing.figures import Figures
from teacher_cache.sharing.row_sums import BINS

_SIZE_IN, _DPI = (6.4, 3.2), 110
_STYLE: dict[Any, Any] = {"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True}


def confidence_png(figures: Figures) -> bytes:
    """Return a histogram of the probability of the top class, and of the tail mass, over all views."""
    edges = np.linspace(0, 1, BINS + 1)
    total = sum(figures.confidences)
    with mpl.rc_context(_STYLE):
        figure = Figure(_SIZE_IN, layout="constrained")
        axes = figure.subplots()
        for counts, text in ((figures.confidences, "top class"), (figures.tails, "outside the top k")):
            axes.stairs(np.array(counts) / total, edges, label=text, linewidth=2)
        axes.set(xlabel="probability", ylabel="share of the views", xlim=(0, 1), ylim=(0, None))
        axes.legend(frameon=False)
        return _png(figure)


def agreement_png(figures: Figures) -> bytes:
    """Return the agreement with the true labels by class, the lowest first, and its mean in each view."""
    with mpl.rc_context(_STYLE):
        figure = Figure(_SIZE_IN, layout="constrained")
        of_classes, of_views = figure.subplots(1, 2, sharey=True)
        pairs = zip(figures.agreement_C, figures.rows_C, strict=True)
        shares = sorted(share for share, rows in pairs if rows)
        of_classes.plot(np.linspace(0, 1, len(shares)), shares, linewidth=2)
        of_classes.set(xlabel="share of the classes", ylabel="views that agree", xlim=(0, 1), ylim=(0, 1))
        of_views.plot(figures.views, figures.agreement_V, ".")
        of_views.set(xlabel="view")
        return _png(figure)


def _png(figure: Figure) -> bytes:
    with io.BytesIO() as buffer:
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
        return buffer.getvalue()
