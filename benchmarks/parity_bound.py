"""Bound on the difference between a loss from stored labels and from a live teacher, at the same weights.

Stored logits are exact to e = 1/32 nat (a step is 1/16: labels/arrays.py), and with all classes stored
nothing else is lost. Let r be the teacher's relative logits and r + e_j the stored ones, |e_j| <= e; u_d the
softened probabilities of r + d e_j, s the student's, X_d = log(u_d / s), and L(d) = tau^2 KL(u_d || s). Then

    dL/dd = tau Cov(e_j, X_d),   covariance under u_d, so   |dL/dd| <= tau e sd(X_d).

As u_d / u_0 <= exp(2 e / tau), and X_d - X_0 lies within 2 e / tau of 0,

    sd(X_d) <= exp(e / tau) (sd(X_0) + 2 e / tau), and so
    |L(1) - L(0)| <= tau e exp(e / tau) (sd(X_0) + 2 e / tau).

Hard labels are the class of rank 0, which is stored exactly: their loss is the same to the last bit.

Shapes: B samples, C classes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812

LARGEST_ERROR = 1 / 32
"""Largest error of a stored logit relative to the top one, in nats, if ranks are less than 16 nats apart."""


def soft_term_bound(student_BC: torch.Tensor, teacher_BC: torch.Tensor, tau: float) -> torch.Tensor:
    """Return the bound on the difference of the soft term between eight-bit and exact labels of all classes.

    Args:
        student_BC: Student logits.
        teacher_BC: Teacher logits.
        tau: Temperature of the soft term.

    Returns:
        Bound per sample, float64 (B,), before weighting by alpha.
    """
    target_BC = F.log_softmax(teacher_BC.double() / tau, dim=1)
    excess_BC = target_BC - F.log_softmax(student_BC.double() / tau, dim=1)
    share_BC = target_BC.exp()
    mean_B1 = (share_BC * excess_BC).sum(1, keepdim=True)
    deviation_B = (share_BC * (excess_BC - mean_B1) ** 2).sum(1).sqrt()
    shift = LARGEST_ERROR / tau
    return tau * LARGEST_ERROR * math.exp(shift) * (deviation_B + 2 * shift)
