"""Labels by components: the shape of a tail, written in directions that an archive holds once.

Log-probabilities of a view, less their mean over the classes, are x. Calibration views give their mean m and
their M principal directions v_j (unit vectors). A label stores, besides its top k, a code c_j for each of the
first R directions, and a reader rebuilds x as x' = m + sum over R of step_j c_j v_j. The kept classes S are
known exactly, so the error of x' is known there, up to the constant that makes the tail mass m_t right, and
tells of the errors in the others, O (a Gaussian process):

    e_S = log p_S - x'_S - log m_t + log sum over O of exp x'
    x'_O += K e_S,   K = W_OS (W_SS + noise I)^-1,   W = sum over M of error_j v_j v_j'

error_j is the variance that codes leave in direction j, and noise what no direction explains. At last
t_O = m_t softmax(x'_O).

Codes are chosen for that reader. x'_O is linear in s, the places of a view in the R directions, so they are
the s of least weighted error over O, at most 127 sizes from 0. step_j, near `size`, is the slope of the
calibration views' places in their codes:

    c_j = round(s_j / size),   w_c = a + (1 - a) (C - k) softmax of x / T over O
    s = argmin of min over b of sum over O of w_c (x - x'(s) - b)_c^2

T and a are `fit_temperature` and `fit_least` of the rule. Figures: docs/labels.md.

Shapes: N calibration views, B views, C classes, K classes kept, O the others, M directions, R codes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from teacher_cache.labels.affinity_rule import ComponentRule
from teacher_cache.labels.arrays import BasisArrays
from teacher_cache.labels.topk import Basis, CodedLabels, Labels, OneLabels

_MOST_CODE = 127
_LEAST_NOISE = 1 / 256
"""Least variance per class that no direction explains: that of an error of 1/16 nat, the step of values."""
_NOISE_UNSEEN = 2.0
"""Factor from the variance that directions leave on the views they were fitted to, to that on others."""
_LEAST_TAIL = float(torch.finfo(torch.float32).tiny)
_RIDGE, _ROUNDING = 1e-4, 1e-6
"""Added to normal equations: nothing beside `fit_least`, and more than float32 leaves below 0."""
_MOST_NUMBERS = 2**22
"""Views times classes times codes (or kept classes) that are fitted at once: 16 MiB a tensor."""


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


def with_codes(labels: Labels, logits_BC: torch.Tensor, basis: Basis, rule: ComponentRule) -> CodedLabels:
    """Return the labels of dense logits with their codes."""
    rest_BC, ids_BK = centred(logits_BC) - basis.mean_C, labels.class_ids_BK.long()
    weights_BC = _weights(logits_BC, ids_BK, rule)
    count = max(1, _MOST_NUMBERS // (max(len(basis.step_R), ids_BK.shape[1]) * rest_BC.shape[1]))
    parts = zip(rest_BC.split(count), ids_BK.split(count), weights_BC.split(count), strict=True)
    places_BR = torch.cat([_places(*part, basis) for part in parts])
    codes_BR = (places_BR / rule["size"]).round().clamp(-_MOST_CODE, _MOST_CODE).to(torch.int8)
    return CodedLabels(*labels, codes_BR)


def _places(
    rest_BC: torch.Tensor, ids_BK: torch.Tensor, weights_BC: torch.Tensor, basis: Basis
) -> torch.Tensor:
    """Return s of the views x - m, float32 (B, R)."""
    coded_RC = basis.directions_MC[: len(basis.step_R)]
    known_BKM, spread_BKK = _spread(ids_BK, basis)
    told_BKC = torch.linalg.solve(spread_BKK, known_BKM @ basis.directions_MC)
    root_BC = weights_BC.sqrt()
    unseen_BRC = (coded_RC - coded_RC.T[ids_BK].mT @ told_BKC) * root_BC[:, None]
    rest_B1C = (rest_BC[:, None] - rest_BC.gather(1, ids_BK)[:, None] @ told_BKC) * root_BC[:, None]
    level_B1C = (1 - told_BKC.sum(1, keepdim=True)) * root_BC[:, None]
    level_B1C = level_B1C / level_B1C.norm(dim=2, keepdim=True).clamp_min(_LEAST_TAIL)
    unseen_BRC = unseen_BRC - (unseen_BRC @ level_B1C.mT) @ level_B1C
    rest_B1C = rest_B1C - (rest_B1C @ level_B1C.mT) @ level_B1C
    normal_BRR, found_BR1 = (unseen_BRC @ unseen_BRC.mT).double(), (unseen_BRC @ rest_B1C.mT).double()
    # few classes leave fewer equations than places: the shortest s is taken
    diagonal_BR = normal_BRR.diagonal(dim1=1, dim2=2)
    diagonal_BR += _RIDGE + _ROUNDING * diagonal_BR.amax(1, keepdim=True)
    return torch.cholesky_solve(found_BR1, torch.linalg.cholesky(normal_BRR))[:, :, 0].float()


def _weights(logits_BC: torch.Tensor, ids_BK: torch.Tensor, rule: ComponentRule) -> torch.Tensor:
    """Return the weights w, (B, C): of mean 1 outside the top k, and 0 in it."""
    least, num_others = rule["fit_least"], logits_BC.shape[1] - ids_BK.shape[1]
    likely_BC = (logits_BC.float() / rule["fit_temperature"]).scatter(1, ids_BK, -torch.inf).softmax(1)
    return (least + (1 - least) * num_others * likely_BC).scatter(1, ids_BK, 0.0)


def _spread(ids_BK: torch.Tensor, basis: Basis) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the kept rows of W without its last factor, (B, K, M), and W_SS + noise I, (B, K, K)."""
    seen_BKM = basis.directions_MC.T[ids_BK]
    known_BKM = seen_BKM * basis.error_M
    eye_KK = torch.eye(ids_BK.shape[1], device=ids_BK.device)
    return known_BKM, known_BKM @ seen_BKM.mT + basis.noise * eye_KK


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
    known_BKM, spread_BKK = _spread(ids_BK, basis)
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
