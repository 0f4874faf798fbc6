"""Labels by components: the shape of a tail, written in directions that an archive holds once.

Log-probabilities of a view, less their mean over the classes, are x. Calibration views give their mean m and
their M principal directions v_j (unit vectors). A label stores, besides its top k, a code for each of the
first R directions:

    c_j = round((x - m) . v_j / size), at most 127 from 0

A reader rebuilds x as x' = m + sum over R of step_j c_j v_j. step_j is near `size`: it is the slope that fits
the calibration views best. The kept classes S are known exactly, so the error of x' is known there, up to
the constant that makes the tail mass m_t right, and tells of the errors elsewhere (a Gaussian process):

    e_S = log p_S - x'_S - log m_t + log sum over O of exp x'
    x'_O += W_OS (W_SS + noise I)^-1 e_S,   W = sum over M of error_j v_j v_j'

error_j is the variance that codes leave in direction j, and noise what no direction explains. At last
t_O = m_t softmax(x'_O). Figures: docs/labels.md.

Shapes: N calibration views, B views, C classes, K classes kept, O the others, M directions, R codes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from teacher_cache.labels.affinity_rule import ComponentRule
from teacher_cache.labels.arrays import BasisArrays
from teacher_cache.labels.topk import Basis, CodedLabels, OneLabels

_MOST_CODE = 127
_LEAST_NOISE = 1 / 256
"""Least variance per class that no direction explains: that of an error of 1/16 nat, the step of values."""
_NOISE_UNSEEN = 2.0
"""Factor from the variance that directions leave on the views they were fitted to, to that on others."""
_LEAST_TAIL = float(torch.finfo(torch.float32).tiny)


def centred(logits_BC: torch.Tensor) -> torch.Tensor:
    """Return log-probabilities less their mean over the classes, float32 (B, C)."""
    log_BC = logits_BC.float().log_softmax(1)
    return log_BC - log_BC.mean(1, keepdim=True)


def fitted_basis(centred_NC: npt.NDArray[np.float16], rule: ComponentRule) -> BasisArrays:
    """Return the basis that fits calibration views best.

    Views that are fewer than the directions give fewer of them; the others are stored as 0.

    Args:
        centred_NC: `centred` log-probabilities of calibration views.
    """
    num_classes = centred_NC.shape[1]
    views_NC = torch.from_numpy(centred_NC.astype(np.float32))
    mean_C = views_NC.mean(0, dtype=torch.float64)
    views_NC -= mean_C.float()
    found_MC = _directions(views_NC, rule["directions"])
    stored_MC = torch.zeros(rule["directions"], num_classes, dtype=torch.float16)
    stored_MC[: len(found_MC)] = found_MC
    places_NM = views_NC @ stored_MC.T.float()
    codes_NM = (places_NM / rule["size"]).round().clamp(-_MOST_CODE, _MOST_CODE)
    codes_NM[:, rule["codes"] :] = 0
    places_NM, codes_NM = places_NM.double(), codes_NM.double()
    step_M = (places_NM * codes_NM).sum(0) / codes_NM.square().sum(0).clamp_min(1)
    error_M = (places_NM - step_M * codes_NM).square().mean(0)
    whole = torch.linalg.vector_norm(views_NC, dtype=torch.float64).square()
    rest = (whole - places_NM.square().sum()).clamp_min(0) / views_NC.numel()
    noise = max(_NOISE_UNSEEN * float(rest), _LEAST_NOISE)
    return BasisArrays(
        torch.cat([mean_C.half()[None], stored_MC]).numpy(),
        np.append(1, step_M.numpy()).astype(np.float32),
        np.append(noise, error_M.numpy()).astype(np.float32),
    )


def codes_of(logits_BC: torch.Tensor, basis: Basis, size: float) -> torch.Tensor:
    """Return the codes of dense logits, int8 (B, R)."""
    places_BR = (centred(logits_BC) - basis.mean_C) @ basis.directions_MC[: len(basis.step_R)].T
    return (places_BR / size).round().clamp(-_MOST_CODE, _MOST_CODE).to(torch.int8)


def tail_logits(labels: OneLabels, basis: Basis) -> torch.Tensor:
    """Return x' of all classes, float32 (B, C): log-probabilities up to a constant for each view.

    Raises:
        ValueError: The labels have no codes, or others than the basis.
    """
    if not isinstance(labels, CodedLabels) or labels.codes_BR.shape[1] != len(basis.step_R):
        raise ValueError(
            f"a basis of {len(basis.step_R)} codes, and labels without them: give the basis of their archive"
        )
    ids_BK = labels.class_ids_BK.long()
    steps_BR = labels.codes_BR.float() * basis.step_R
    shape_BC = basis.mean_C + steps_BR @ basis.directions_MC[: len(basis.step_R)]
    outside_B = shape_BC.scatter(1, ids_BK, -torch.inf).logsumexp(1)
    level_B = outside_B - labels.tail_B.clamp_min(_LEAST_TAIL).log()
    error_BK = labels.log_probabilities() + level_B[:, None] - shape_BC.gather(1, ids_BK)
    seen_BKM = basis.directions_MC.T[ids_BK]
    known_BKM = seen_BKM * basis.error_M
    eye_KK = torch.eye(ids_BK.shape[1], device=ids_BK.device)
    spread_BKK = known_BKM @ seen_BKM.mT + basis.noise * eye_KK
    weights_BK = torch.linalg.solve(spread_BKK, error_BK)
    return shape_BC + (weights_BK[:, None] @ known_BKM)[:, 0] @ basis.directions_MC


def _directions(views_NC: torch.Tensor, count: int) -> torch.Tensor:
    """Return the principal directions of rows whose mean is 0, float32 (M, C), by falling variance.

    The smaller of the two products is decomposed: 21,841 classes need no matrix of classes by classes.
    """
    num_views, num_classes = views_NC.shape
    count = min(count, num_views - 1, num_classes - 1)
    is_wide = num_views < num_classes
    matrix = _product(views_NC if is_wide else views_NC.T)
    _, vectors = torch.linalg.eigh(matrix)  # by rising variance
    vectors = vectors.flip(1)[:, :count].float()
    found_MC = vectors.T @ views_NC if is_wide else vectors.T
    found_MC = found_MC / found_MC.norm(dim=1, keepdim=True).clamp_min(_LEAST_TAIL)
    largest_M1 = found_MC.abs().argmax(1, keepdim=True)
    return found_MC * found_MC.gather(1, largest_M1).sign()  # the sign that eigh leaves open


def _product(rows_NC: torch.Tensor) -> torch.Tensor:
    """Return rows times their transpose in float64, (N, N), without a float64 copy of all rows."""
    total = torch.zeros(len(rows_NC), len(rows_NC), dtype=torch.float64)
    for part in rows_NC.split(1024, dim=1):
        wide = part.double()
        total += wide @ wide.T
    return total
