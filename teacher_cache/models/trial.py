"""Try a teacher on real views before its labels are believed: is its output logits, and does it repeat?

Probabilities in place of logits, or a model left in training mode, give labels that look right: the top class
is the same, or nearly so.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from teacher_cache.errors import ModelError
from teacher_cache.models.teacher import RULED_OUT, Teacher

_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}
"""Largest difference between two calls on one view, as a share of the logits' standard deviation.

Kernels may round differently for another batch size. On a CPU, RegNetY-200MF and ViT-Ti gave equal bits in
both types; on a GPU it was not measured.
"""
_LEAST_VALUES = 16
"""Number of values from which a range is judged: a few true logits may all lie in [0, 1] by chance."""
_SUM_TOLERANCE = 1e-2
"""Largest relative error of the sum of probabilities, or of percentages, as bfloat16 rounds them."""
_LEAST_ZEROS = 0.05
"""Share of values that are exactly 0 from which an output without negative values counts as cut off at 0."""


class Outputs(NamedTuple):
    """What a teacher's outputs were found to be.

    Attributes:
        kind: "logits" or "log-probabilities", and how many classes are ruled out; the same on every device.
        text: The kind, with the range of the values and the number of views.
    """

    kind: str
    text: str


@torch.inference_mode()
def check_trial(teacher: Teacher, pixels_BCHW: torch.Tensor) -> Outputs:
    """Refuse a teacher whose output on some views cannot be logits, or depends on more than the view.

    Args:
        pixels_BCHW: Views of the dataset, pixels from 0 to 255. Two views that differ are needed to notice an
            output that is constant, or that depends on the other views of its batch.

    Returns:
        What the outputs were found to be.

    Raises:
        ModelError: The output is probabilities, of a softmax or a sigmoid; is cut off at 0; is the same for
            all views; or differs between two calls, or between two batches.
    """
    own_BT = teacher.own_logits(pixels_BCHW)
    if not own_BT.isfinite().all():
        return Outputs("not finite", "not finite")  # the batch itself is refused, and its unit named
    _check_range(teacher.spec.model, own_BT)
    _check_repeats(teacher, pixels_BCHW, own_BT)
    return _described(own_BT)


def _described(logits_BT: torch.Tensor) -> Outputs:
    """Return what finite outputs are; values of classes that are ruled out are left aside."""
    is_ruled_out_BT = logits_BT <= RULED_OUT
    seen, num_never = logits_BT[~is_ruled_out_BT], int(is_ruled_out_BT.all(0).sum())
    are_logarithms = bool((logits_BT.logsumexp(1).abs() <= _SUM_TOLERANCE).all())
    name = "log-probabilities" if are_logarithms else "logits"
    ruled_out = f"; {num_never:,} classes are ruled out" if num_never else ""
    text = (
        f"{name} from {seen.min():.3g} to {seen.max():.3g}, "
        f"the same in another call and another batch, on {len(logits_BT):,} views{ruled_out}"
    )
    return Outputs(name + ruled_out, text)


def _check_range(name: str, logits_BT: torch.Tensor) -> None:
    """Refuse values that are those of a softmax, a sigmoid or a ReLU. Raises ModelError."""
    if logits_BT.min() < 0:
        return
    sums_B, is_large = logits_BT.sum(1), logits_BT.numel() >= _LEAST_VALUES
    total, top = sums_B.mean(), logits_BT.max()
    if any(bool(((sums_B / whole - 1).abs() <= _SUM_TOLERANCE).all()) for whole in (1, 100)):
        stored = logits_BT[logits_BT.argmax() // logits_BT.shape[1]].softmax(0).max()
        raise ModelError(
            f"{name} gives probabilities, not logits: none is negative, and each view's sum is {total:.4g}",
            f"A softmax would be taken of them again, and store {stored:.3f} for {top / total:.3f}.",
            "let the model end before its softmax, or return the logarithm of its probabilities",
        )
    if is_large and top <= 1:
        raise ModelError(
            f"{name} gives values in [0, 1] only, from {logits_BT.min():.3f} to {top:.3f}, as a sigmoid does",
            "A softmax is taken of them, which makes all classes nearly equal.",
            "let the model end before its sigmoid, or return the logarithm of its probabilities",
        )
    zeros = (logits_BT == 0).float().mean()
    if is_large and zeros >= _LEAST_ZEROS:
        raise ModelError(
            f"{name} gives no negative value, and {zeros:.0%} of its values are exactly 0, as after a ReLU",
            "All classes that were cut off at 0 would get the same probability.",
            "let the model end before its ReLU",
        )


def _check_repeats(teacher: Teacher, pixels_BCHW: torch.Tensor, first_BT: torch.Tensor) -> None:
    """Refuse an output that depends on the call or on the batch, or not on the view. Raises ModelError."""
    name, num_views = teacher.spec.model, len(pixels_BCHW)
    limit = _TOLERANCE[teacher.spec.precision] * float(first_BT.std())
    differs = float((teacher.own_logits(pixels_BCHW) - first_BT).abs().max())
    if differs > limit:
        raise ModelError(
            f"{name} gives other logits when called again with the same views: they differ by {differs:.3g}",
            "Labels would depend on chance: dropout, noise or statistics of training are at work.",
            "let the model obey eval(), which is called on its module, and keep no state between calls",
        )
    if num_views < 2:
        return
    halves = pixels_BCHW.flip(0).chunk(2)
    in_halves_BT = torch.cat([teacher.own_logits(half_BCHW) for half_BCHW in halves]).flip(0)
    differs = float((in_halves_BT - first_BT).abs().max())
    if differs > limit:
        raise ModelError(
            f"{name} gives other logits for a view in another batch: they differ by {differs:.3g}",
            "Labels would depend on the views beside it: batch normalisation in training mode does this, and "
            "dynamic quantisation, whose scale is that of the batch.",
            "let the model obey eval(), and treat each view by itself: static quantisation, or float32",
        )
    have_same_pixels = bool((pixels_BCHW == pixels_BCHW[:1]).all())
    if not have_same_pixels and bool((first_BT == first_BT[:1]).all()):
        raise ModelError(
            f"{name} gives the same logits for {num_views} views that differ",
            "All labels would be the same.",
            "check the weights, and that the model's output depends on its input",
        )
