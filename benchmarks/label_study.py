"""Alternative choices for the label format, compared over the same logits, and a figure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numcodecs
import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.table import Table

from teacher_cache.labels import tails
from teacher_cache.labels.affinity import affinity_rows, probabilities_of
from teacher_cache.labels.codec import decode, decode_affinity, encode
from teacher_cache.labels.topk import Labels, OneLabels, labels_from_logits

_KS = (3, 5, 10, 20, 50)
_ROWS_OF_STUDY = 1000
_STUDY_VIEWS = slice(2, 10)


def study(logits_RVC: torch.Tensor) -> dict[str, dict[str, float]]:
    """Return and print the KL of each choice at each k.

    Affinities are calibrated on view 0 of all rows unless a choice differs; the KL is of views 2 to 10.
    """
    num_classes = logits_RVC.shape[2]
    ks = [k for k in _KS if k < num_classes]
    evaluated_BC = logits_RVC[:_ROWS_OF_STUDY, _STUDY_VIEWS].flatten(0, 1)
    found: dict[str, dict[str, float]] = {}
    for name, affinity, power in _affinities(logits_RVC, num_classes):
        found[name] = {f"k={k}": _kl_of(evaluated_BC, _stored(evaluated_BC, k), affinity, power) for k in ks}
    found["per-sample profile"] = {f"k={k}": _profile_kl(logits_RVC[:_ROWS_OF_STUDY], k) for k in ks}
    default = affinity_of(logits_RVC[:, 0], 128)
    for name, step in (("values exact", None), ("values 1/32 nat", 1 / 32), ("values 1/8 nat", 1 / 8)):
        found[name] = {
            f"k={k}": _kl_of(evaluated_BC, _stepped(evaluated_BC, k, step), default, None) for k in ks
        }
    for name, bytes_of in (("bytes, ids plain", _plain), ("bytes, ids as ranks in the affinity", _ranked)):
        found[name] = {f"k={k}": _bytes(bytes_of, logits_RVC, k, default) for k in ks}
    table = Table(title="choices: KL in nats, or bytes a label")
    for column in ("choice", *(f"k={k}" for k in ks)):
        table.add_column(column, justify="left" if column == "choice" else "right")
    for name, row in found.items():
        table.add_row(name, *(f"{value:.4f}" for value in row.values()))
    Console().print(table)
    return found


def _affinities(
    logits_RVC: torch.Tensor, num_classes: int
) -> Iterator[tuple[str, Labels | None, float | None]]:
    """Yield the name, the affinity and the power of each choice."""
    view_0 = logits_RVC[:, 0]
    yield "uniform", None, None
    yield "affinity", affinity_of(view_0, 128), None
    for entries in (32, 64, num_classes):
        yield f"{entries} entries a row", affinity_of(view_0, entries), None
    for power in (1.0, 1.2, 1.4, 1.6):
        yield f"b = {power}", affinity_of(view_0, 128), power
    yield "a quarter of the calibration views", affinity_of(view_0[::4], 128), None
    yield "twice the calibration views", affinity_of(logits_RVC[:, :2].flatten(0, 1), 128), None
    yield "rows weighted by sqrt(p)", affinity_of(view_0, 128, root=True), None


def affinity_of(logits_BC: torch.Tensor, entries: int, *, root: bool = False) -> Labels:
    """Return the class affinity of some views, as it is read from an archive."""
    num_classes = logits_BC.shape[1]
    views = probabilities_of(logits_BC.log_softmax(1) / 2 if root else logits_BC)
    rows = affinity_rows(views, num_classes, min(entries, num_classes))
    return decode_affinity(encode(rows, num_classes, "q8"), num_classes)


def _stored(logits_BC: torch.Tensor, k: int) -> OneLabels:
    num_classes = logits_BC.shape[1]
    return decode(encode(labels_from_logits(logits_BC, k), num_classes, "q8"), num_classes, "q8")


def _stepped(logits_BC: torch.Tensor, k: int, step: float | None) -> Labels:
    labels = labels_from_logits(logits_BC, k)
    if step is None:
        return labels
    relative_BK = (labels.relative_logits_BK / step).round() * step
    tail_B = ((labels.tail_B.log() / step).round() * step).exp()
    return labels._replace(
        relative_logits_BK=relative_BK, tail_B=tail_B.clamp_max(1 - k / logits_BC.shape[1])
    )


def _kl_of(logits_BC: torch.Tensor, labels: OneLabels, affinity: Labels | None, power: float | None) -> float:
    given_BC = tails.dense_probabilities(labels, logits_BC.shape[1], affinity, power)
    return kl(logits_BC, given_BC)


def kl(logits_BC: torch.Tensor, given_BC: torch.Tensor) -> float:
    """Return the mean KL from the softmax of logits to probabilities, in nats."""
    full_BC = logits_BC.double().log_softmax(1)
    log_BC = given_BC.double().clamp_min(torch.finfo(torch.float32).tiny).log()
    return float((full_BC.exp() * (full_BC - log_BC)).sum(1).mean())


def _profile_kl(logits_RVC: torch.Tensor, k: int) -> float:
    """Return the KL over later views if tails are spread by the mean output of the same sample."""
    num_classes = logits_RVC.shape[2]
    profile_RC = logits_RVC[:, _STUDY_VIEWS.stop :].softmax(2).mean(1)
    views_BC = logits_RVC[:, _STUDY_VIEWS].flatten(0, 1)
    shape_BC = profile_RC.repeat_interleave(_STUDY_VIEWS.stop - _STUDY_VIEWS.start, 0)
    labels = _stored(views_BC, k)
    ids_BK = labels.class_ids_BK.long()
    shape_BC = shape_BC.scatter(1, ids_BK, 0.0)
    tail_BC = shape_BC * (labels.tail_B / shape_BC.sum(1))[:, None]
    kept_BK = labels.probabilities()
    assert tail_BC.shape[1] == num_classes
    return kl(views_BC, tail_BC.scatter(1, ids_BK, kept_BK))


def _bytes(
    encode_ids: Callable[[Labels, Labels, int], npt.NDArray[np.uint16]],
    logits_RVC: torch.Tensor,
    k: int,
    affinity: Labels,
) -> float:
    """Return the compressed bytes of class ids alone, in chunks of 8 views."""
    labels = labels_from_logits(logits_RVC[:, :8].flatten(0, 1), k)
    ids_NK: npt.NDArray[np.uint16] = encode_ids(labels, affinity, logits_RVC.shape[2])
    blosc = numcodecs.Blosc(cname="zstd", clevel=5, shuffle=numcodecs.Blosc.BITSHUFFLE)
    return len(blosc.encode(np.ascontiguousarray(ids_NK))) / len(ids_NK)


def _plain(labels: Labels, _affinity: Labels, _num_classes: int) -> npt.NDArray[np.uint16]:
    return labels.class_ids_BK.numpy().astype(np.uint16)


def _ranked(labels: Labels, affinity: Labels, num_classes: int) -> npt.NDArray[np.uint16]:
    """Return each class id but the first as the rank in the affinity row of the first."""
    places_RC = np.full((num_classes + 1, num_classes), affinity.class_ids_BK.shape[1], np.uint16)
    rows = np.arange(num_classes + 1)[:, None]
    places_RC[rows, affinity.class_ids_BK.numpy()] = np.arange(affinity.class_ids_BK.shape[1])
    ids = labels.class_ids_BK.numpy()
    return np.concatenate([ids[:, :1], places_RC[ids[:, :1], ids[:, 1:]]], axis=1).astype(np.uint16)


def figure(by_k: Mapping[int, Mapping[str, Mapping[str, Any]]], file: str) -> None:
    """Draw the KL of every format against bytes, both logarithmic, a point per k."""
    import matplotlib.pyplot as plt

    plot, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    lines = {name: name for name in next(iter(by_k.values())) if name != "ours"}
    for name in lines:
        points = [(formats[name]["bytes"], formats[name]["kl"]) for formats in by_k.values()]
        axes.plot(*zip(*points, strict=True), "o-", label=name)
    for tail, style in (("uniform", "s--"), ("affinity", "s-")):
        points = [(formats["ours"]["bytes"], formats["ours"][f"kl_{tail}"]) for formats in by_k.values()]
        axes.plot(*zip(*points, strict=True), style, color="black", label=f"teacher-cache, {tail}")
        if tail == "affinity":
            for k, (x, y) in zip(by_k, points, strict=True):
                axes.annotate(f"k={k}", (x, y), textcoords="offset points", xytext=(-4, -12), ha="right")
    axes.set(
        xscale="log", yscale="log", xlabel="bytes a label, all files", ylabel="KL to the whole teacher, nats"
    )
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend()
    plot.savefig(file, dpi=110)
