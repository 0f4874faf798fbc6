"""A label: the teacher's sparse output for one view, and what its numbers mean.

Shapes: B views, K classes kept, C classes in all.
"""

from __future__ import annotations

from typing import NamedTuple

import torch


class Labels(NamedTuple):
    """The labels of B views: the top-k classes, their relative logits, and the mass outside them.

    The probability of a kept class is (1 - tail) * softmax(relative_logits)[rank], at temperature 1.

    Attributes:
        class_ids_BK: int32, by falling probability; of two equal logits the lower class id comes first.
        relative_logits_BK: float32, logit - largest logit, so 0 at rank 0 and never positive.
        tail_B: float32, the probability outside the top k: 1 - sum of theirs; 0 when K is C.
    """

    class_ids_BK: torch.Tensor
    relative_logits_BK: torch.Tensor
    tail_B: torch.Tensor

    def log_probabilities(self) -> torch.Tensor:
        """Return the log-probabilities of the kept classes, float32 (B, K)."""
        return self.relative_logits_BK.log_softmax(1) + torch.log1p(-self.tail_B)[:, None]

    def probabilities(self) -> torch.Tensor:
        """Return the probabilities of the kept classes, float32 (B, K)."""
        return self.log_probabilities().exp()

    def to(self, device: torch.device | str) -> Labels:
        """Return the same labels on `device`, copied without waiting where memory is pinned."""
        return Labels(*(tensor.to(device, non_blocking=True) for tensor in self))


@torch.no_grad()
def labels_from_logits(logits_BC: torch.Tensor, k: int) -> Labels:
    """Cut dense logits to their k most probable classes, on the logits' own device.

    A stable sort, not torch.topk, decides ties: bfloat16 logits tie often, and torch.topk leaves their
    order open. The tail is summed from the classes cut off, not as 1 minus the others, so it keeps its
    relative precision when it is tiny.

    Args:
        logits_BC: The teacher's output, any float type; computed with in float32.
        k: Classes to keep, 1 to C.
    """
    sorted_BC, class_ids_BC = torch.sort(logits_BC.float(), dim=1, descending=True, stable=True)
    relative_BC = sorted_BC - sorted_BC[:, :1]
    mass_BC = relative_BC.exp()
    tail_B = mass_BC[:, k:].sum(1) / mass_BC.sum(1)
    return Labels(class_ids_BC[:, :k].int(), relative_BC[:, :k].contiguous(), tail_B)
