"""Class affinity: for each class, the other classes that a teacher gives probability along with it.

The affinity A is calibrated once per archive, from the teacher's probabilities p of a fixed set of views:

    A[c] = (sum over views of p_c p + half the mean p), divided by its sum over classes
    A[C] = mean p

So A[c] is the mean output weighted by p_c, or the mean output of all views if p_c is always 0. Each row is
stored like a label: its largest entries, and a tail that is spread evenly. The rows spread the tails of
labels without another byte per label: labels/tails.py.
"""

from __future__ import annotations

import itertools

import torch

from teacher_cache.labels.topk import Labels, labels_from_logits

_PRIOR_VIEWS = 0.5
"""Weight of the mean output in each row, in views, so that classes of probability 0 have a row too."""

_ROWS_AT_ONCE = 1024
"""Number of rows sorted together: all rows of 21,841 classes at once would take gigabytes."""


class AffinitySum:
    """Sum over views from which a class affinity is made, on the device of the logits."""

    def __init__(self) -> None:
        self._sum_CC: torch.Tensor | None = None
        self._sum_C: torch.Tensor | None = None
        self._num_views = 0

    def add(self, logits_BC: torch.Tensor) -> None:
        """Add the dense logits of B views."""
        probabilities_BC = logits_BC.float().softmax(1)
        products_CC, total_C = probabilities_BC.T @ probabilities_BC, probabilities_BC.sum(0)
        self._sum_CC = products_CC if self._sum_CC is None else self._sum_CC.add_(products_CC)
        self._sum_C = total_C if self._sum_C is None else self._sum_C.add_(total_C)
        self._num_views += len(logits_BC)

    def rows(self, entries: int) -> Labels:
        """Return the affinity: a label per class and one for the mean output, (C + 1, entries)."""
        assert self._sum_CC is not None
        assert self._sum_C is not None
        mean_C = self._sum_C / self._num_views
        floor = torch.finfo(torch.float32).tiny
        parts = (part_RC + _PRIOR_VIEWS * mean_C for part_RC in self._sum_CC.split(_ROWS_AT_ONCE))
        rows = [
            labels_from_logits(part_RC.clamp_min(floor).log(), entries)
            for part_RC in itertools.chain(parts, [mean_C[None]])
        ]
        return Labels(*(torch.cat(fields).cpu() for fields in zip(*rows, strict=True)))
