"""What labels by components keep, at which size, beside labels of a top k alone.

Everything is written and read as in an archive: labels/components.py, and the objects of a unit with all
their overhead; what an archive holds once is told apart. Kept is 1 - KL(target, label) / KL(target, uniform),
at a temperature.

Shapes: N calibration views, R rows, V views, B all of their views, C classes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.label_study import affinity_of
from teacher_cache.archive.format.layout import Layout
from teacher_cache.labels.affinity_rule import ENTRIES, ComponentRule, component_rule
from teacher_cache.labels.arrays import LabelArrays
from teacher_cache.labels.codec import decode, decode_basis, encode
from teacher_cache.labels.components import centred, fitted_basis, with_codes
from teacher_cache.labels.tails import dense_probabilities
from teacher_cache.labels.topk import OneAffinity, OneLabels, labels_from_logits

_TEMPERATURES = (1, 2, 3, 4)
_KS, _CODES, _SIZES = (5, 7, 8, 10), (32, 64, 72, 96, 128, 160), (0.7, 0.85, 1.0)
"""Numbers of classes and codes, and sizes of a code relative to the default."""
_KS_OF_AFFINITY = (5, 10, 20, 50)


def component_study(seen_NC: torch.Tensor, logits_RVC: torch.Tensor) -> dict[str, dict[str, float]]:
    """Return and print bytes, KL and kept share of each label.

    Args:
        seen_NC: The teacher's logits of the views to calibrate on.
        logits_RVC: Its logits of rows, views and classes, which are labelled.
    """
    num_classes = logits_RVC.shape[2]
    views_BC = logits_RVC.flatten(0, 1)
    even = {tau: tempered_kl(views_BC, torch.zeros_like(views_BC), tau) for tau in _TEMPERATURES}
    found = dict(_of_affinity(seen_NC, logits_RVC, even))
    seen = centred(seen_NC).half().numpy()
    default = component_rule(1, num_classes, len(seen))
    for count, size in itertools.product((each for each in _CODES if each < num_classes), _SIZES):
        rule: ComponentRule = {**default, "codes": count, "size": size * default["size"]}
        arrays = fitted_basis(seen, rule)
        basis = decode_basis(arrays, count)
        for k in (each for each in _KS if each < num_classes):
            labels = with_codes(labels_from_logits(views_BC, k), views_BC, basis, rule)
            layout = _layout(logits_RVC, k, num_codes=count, num_directions=rule["directions"])
            shared_bytes = sum(map(len, layout.encode_shared(arrays).values()))
            row = _figures(logits_RVC, even, labels, layout, basis)
            found[f"k={k}, {count} codes of {size:g}"] = {**row, "once": shared_bytes}
    _show(found)
    return found


def _of_affinity(
    seen_NC: torch.Tensor, logits_RVC: torch.Tensor, even: Mapping[int, float]
) -> Iterator[tuple[str, dict[str, float]]]:
    """Yield the name and the figures of labels with the class affinity, and with an even tail."""
    num_classes = logits_RVC.shape[2]
    affinity = affinity_of(seen_NC, ENTRIES)
    for k in (k for k in _KS_OF_AFFINITY if k < num_classes):
        labels, layout = labels_from_logits(logits_RVC.flatten(0, 1), k), _layout(logits_RVC, k)
        for name, tail in (("even tail", None), ("class affinity", affinity)):
            yield f"k={k}, {name}", {**_figures(logits_RVC, even, labels, layout, tail), "once": 0}


def _layout(logits_RVC: torch.Tensor, k: int, **basis: Any) -> Layout:
    num_rows, num_views, num_classes = logits_RVC.shape
    return Layout(1, num_rows, num_views, k, num_classes, **basis)


def _figures(
    logits_RVC: torch.Tensor,
    even: Mapping[int, float],
    labels: OneLabels,
    layout: Layout,
    affinity: OneAffinity,
) -> dict[str, float]:
    """Return the figures of stored labels; `even` has the KL of a uniform label by temperature."""
    num_rows, num_views, num_classes = logits_RVC.shape
    stored = encode(labels, num_classes, "q8")
    unit = LabelArrays(*(array.reshape(num_rows, num_views, *array.shape[1:]) for array in stored))
    num_bytes = sum(map(len, layout.encode_unit(unit).values())) / (num_rows * num_views)
    log_BC = dense_probabilities(decode(stored, num_classes, "q8"), num_classes, affinity).double().log()
    row = {"bytes": round(num_bytes, 2)}
    for tau in _TEMPERATURES:
        loss = tempered_kl(logits_RVC.flatten(0, 1), log_BC, tau)
        row[f"KL at {tau}"] = round(loss, 4)
        row[f"kept at {tau}"] = round(1 - loss / even[tau], 3)
    return row


def tempered_kl(logits_BC: torch.Tensor, log_BC: torch.Tensor, tau: float) -> float:
    """Return the mean KL in nats between the softmax of two kinds of logits at a temperature."""
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
