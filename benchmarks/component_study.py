"""What labels would keep if a view stored coefficients in a basis of the archive, besides its top k.

For the classes outside the top k, log-probabilities (centred per view) are written in the first r principal
directions of calibration views; a view stores r coefficients in steps of a fixed size, and the tail mass as
now. The reader rebuilds the shape of the tail and scales it to the tail mass. Kept is 1 - KL(target, label) /
KL(target, uniform), at a temperature.

Shapes: N calibration views, B views, C classes, R directions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import numcodecs
import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.label_study import affinity_of
from teacher_cache.labels.affinity_rule import ENTRIES
from teacher_cache.labels.codec import decode, encode
from teacher_cache.labels.tails import dense_probabilities
from teacher_cache.labels.topk import Labels, labels_from_logits

_TEMPERATURES = (1, 2, 3, 4)
_KS, _DIRECTIONS, _STEPS = (3, 5, 8, 10), (32, 64, 96, 128), (3.0, 4.0, 6.0)
_KS_OF_TODAY = (5, 10, 20, 50)
_CHUNK_ROWS = 1000
_BLOSC = numcodecs.Blosc(cname="zstd", clevel=5, shuffle=numcodecs.Blosc.BITSHUFFLE)


def component_study(logits_RVC: torch.Tensor) -> dict[str, dict[str, float]]:
    """Return and print bytes, KL and kept share of each label; calibrated on one half of the samples.

    Args:
        logits_RVC: The teacher's logits of rows, views and classes.
    """
    half = len(logits_RVC) // 2
    seen_NC, views_BC = logits_RVC[:half].flatten(0, 1), logits_RVC[half:].flatten(0, 1)
    num_classes = logits_RVC.shape[2]
    even = {tau: _kl(views_BC, torch.zeros_like(views_BC), tau) for tau in _TEMPERATURES}
    found = dict(_of_today(seen_NC, views_BC, even))
    mean_C, directions_CR = _basis(seen_NC, max(_DIRECTIONS))
    coefficients_BR = (_centred(views_BC) - mean_C) @ directions_CR
    ks, counts = ([each for each in some if each < num_classes] for some in (_KS, _DIRECTIONS))
    labels = {k: _stored(views_BC, k) for k in ks}
    for count, step in itertools.product(counts, _STEPS):
        # as steps are relative to the spread of a class, few classes need finer ones
        size = step * (num_classes / 1000) ** 0.5
        steps_BR = torch.round(coefficients_BR[:, :count] / size).clamp(-127, 127)
        shape_BC = mean_C + (steps_BR * size) @ directions_CR[:, :count].T
        of_steps = component_bytes(steps_BR.numpy().astype(np.int8))
        for k, (stored, num_bytes) in labels.items():
            row = _figures(views_BC, even, _rebuilt(stored, shape_BC), num_bytes + of_steps)
            found[f"k={k}, {count} components, step {step:g}"] = row
    _show(found)
    return found


def component_bytes(steps_BR: npt.NDArray[np.int8]) -> float:
    """Return the bytes of a view's coefficients, compressed as chunks of labels are.

    Sign and magnitude in one unsigned number, component by component: then each bit plane of each component
    is compressed for itself.
    """
    wide_BR = steps_BR.astype(np.int16)
    zigzag_BR = ((wide_BR << 1) ^ (wide_BR >> 15)).astype(np.uint8)
    chunks = np.split(zigzag_BR, range(_CHUNK_ROWS, len(zigzag_BR), _CHUNK_ROWS))
    return sum(len(_BLOSC.encode(np.ascontiguousarray(chunk.T))) for chunk in chunks) / len(steps_BR)


def _of_today(
    seen_NC: torch.Tensor, views_BC: torch.Tensor, even: Mapping[int, float]
) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the name and the figures of labels with the class affinity, and with an even tail."""
    num_classes = views_BC.shape[1]
    affinity = affinity_of(seen_NC, ENTRIES)
    for k in (k for k in _KS_OF_TODAY if k < num_classes):
        labels, num_bytes = _stored(views_BC, k)
        for name, tail in (("even tail", None), ("class affinity", affinity)):
            log_BC = dense_probabilities(labels, num_classes, tail).double().log()
            yield f"k={k}, {name}", _figures(views_BC, even, log_BC, num_bytes)


def _centred(logits_BC: torch.Tensor) -> torch.Tensor:
    log_BC = logits_BC.double().log_softmax(1)
    return log_BC - log_BC.mean(1, keepdim=True)


def _basis(logits_NC: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean (C,) and the first principal directions (C, R) of centred log-probabilities."""
    views_NC = _centred(logits_NC)
    mean_C = views_NC.mean(0)
    spread_NC = views_NC - mean_C
    _, directions_CC = torch.linalg.eigh(spread_NC.T @ spread_NC)  # by rising variance
    return mean_C, directions_CC.flip(1)[:, :count]


def _stored(logits_BC: torch.Tensor, k: int) -> tuple[Labels, float]:
    """Return labels as they are read from an archive, and the compressed bytes of one."""
    num_classes = logits_BC.shape[1]
    arrays = encode(labels_from_logits(logits_BC, k), num_classes, "q8")
    chunks = [
        np.ascontiguousarray(array[first : first + _CHUNK_ROWS])
        for array in arrays
        for first in range(0, len(array), _CHUNK_ROWS)
    ]
    num_bytes = sum(len(_BLOSC.encode(chunk)) for chunk in chunks)
    return decode(arrays, num_classes, "q8"), num_bytes / len(logits_BC)


def _rebuilt(labels: Labels, shape_BC: torch.Tensor) -> torch.Tensor:
    """Return log-probabilities of all classes, the tail in a given shape."""
    ids_BK = labels.class_ids_BK.long()
    tail_BC = shape_BC.scatter(1, ids_BK, -torch.inf).log_softmax(1)
    least = torch.finfo(torch.float32).tiny
    log_BC = tail_BC + labels.tail_B.double().clamp_min(least).log()[:, None]
    return log_BC.scatter(1, ids_BK, labels.log_probabilities().double())


def _figures(
    logits_BC: torch.Tensor, even: Mapping[int, float], log_BC: torch.Tensor, num_bytes: float
) -> dict[str, float]:
    """Return the figures of a label; `even` has the KL of a uniform label by temperature."""
    row = {"bytes": round(num_bytes, 2)}
    for tau in _TEMPERATURES:
        loss = _kl(logits_BC, log_BC, tau)
        row[f"KL at {tau}"] = round(loss, 4)
        row[f"kept at {tau}"] = round(1 - loss / even[tau], 3)
    return row


def _kl(logits_BC: torch.Tensor, log_BC: torch.Tensor, tau: float) -> float:
    target_BC, given_BC = ((each.double() / tau).log_softmax(1) for each in (logits_BC, log_BC))
    return float((target_BC.exp() * (target_BC - given_BC.clamp_min(-1e4))).sum(1).mean())


def _show(found: dict[str, dict[str, float]]) -> None:
    names = list(next(iter(found.values())))
    table = Table(title="labels by components: bytes, KL in nats, share kept, by temperature")
    for column in ("label", *names):
        table.add_column(column, justify="left" if column == "label" else "right")
    for label, row in found.items():
        table.add_row(label, *(f"{row[name]:g}" for name in names))
    Console(width=150).print(table)
