"""Calibrate in parts: the teacher's most probable classes of some calibration views, beside true labels."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from teacher_cache.archive.format.spec import LabelSpec
from teacher_cache.batches.batch import Targets
from teacher_cache.batches.pool import RenderPool
from teacher_cache.batches.rendered import ViewIds
from teacher_cache.batches.renderer import BatchRenderer
from teacher_cache.labelling.unit import teacher_logits
from teacher_cache.labels.affinity import Probabilities, affinity_rows, probabilities_of
from teacher_cache.labels.affinity_rule import CalibrationPart, calibration_rows_views
from teacher_cache.labels.agreement import Agreement, agreement_of
from teacher_cache.labels.arrays import SharedArrays
from teacher_cache.labels.codec import encode
from teacher_cache.labels.components import centred, fitted_basis
from teacher_cache.labels.encodings import AFFINITY_VALUES
from teacher_cache.models.teacher import Teacher

_DIGEST_BYTES = 32


class Calibrated(NamedTuple):
    """Calibration result of N views: those of one part, or of several joined parts.

    Attributes:
        probabilities: The teacher's most probable classes.
        centred_NC: float16, all log-probabilities less their mean; None where no basis is calibrated.
        labels_N: int32, true class ids; for mixed views, the one with more weight; -1 without a label.
    """

    probabilities: Probabilities
    labels_N: npt.NDArray[np.int32]
    centred_NC: npt.NDArray[np.float16] | None = None

    @property
    def agreement(self) -> Agreement | None:
        """Agreement of the teacher with the true labels; None where nothing is labelled."""
        top_N = self.probabilities.class_ids_NM[:, 0].astype(np.int64)
        return agreement_of(top_N, self.labels_N.astype(np.int64))

    def to_bytes(self) -> bytes:
        """Serialise a part of the calibration: the sha256 of its arrays, then the arrays."""
        content = io.BytesIO()
        arrays: dict[str, npt.NDArray[Any]] = {
            "ids": self.probabilities[0],
            "values": self.probabilities[1],
            "labels": self.labels_N,
        }
        if self.centred_NC is not None:
            arrays["centred"] = self.centred_NC
        np.savez(content, allow_pickle=False, **arrays)
        return hashlib.sha256(content.getvalue()).digest() + content.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Calibrated:
        """Return the result that `to_bytes` serialised. Raises ValueError if the bytes are damaged."""
        digest, content = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            raise ValueError("it is damaged")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            views = Probabilities(arrays["ids"], arrays["values"])
            return cls(views, arrays["labels"], arrays.get("centred"))


def calibrate_part(
    pool: RenderPool[BatchRenderer],
    teacher: Teacher,
    part: CalibrationPart,
    *,
    batch_size: int,
    for_basis: bool,
    advance: Callable[[int], None],
) -> Calibrated:
    """Return the teacher's most probable classes of a part's views.

    Args:
        teacher: Teacher to calibrate.
        for_basis: Whether a basis is calibrated, which needs all classes.

    Raises:
        TeacherCacheError: Views cannot be rendered or labelled; see `teacher_logits`.
    """
    rows_N, views_N = calibration_rows_views(len(pool.renderer.dataset), part.num_views)
    rows_N, views_N = rows_N[part.start : part.stop], views_N[part.start : part.stop]
    stops = range(batch_size, len(rows_N), batch_size)
    batches = zip(np.split(rows_N, stops), np.split(views_N, stops), strict=True)
    loads = [[ViewIds(rows_B, views_B)] for rows_B, views_B in batches]
    found = []
    for batch, logits_BC in teacher_logits(pool, teacher, loads, what="the calibration views"):
        centred_BC = centred(logits_BC).half().cpu().numpy() if for_basis else None
        found.append(Calibrated(probabilities_of(logits_BC), _heavier(batch.targets), centred_BC))
        advance(len(batch.rows_B))
    return joined(found)


def joined(parts: Sequence[Calibrated]) -> Calibrated:
    """Return several parts as one."""
    ids, values = zip(*(part.probabilities for part in parts), strict=True)
    labels = np.concatenate([part.labels_N for part in parts])
    wholes = [part.centred_NC for part in parts if part.centred_NC is not None]
    centred_NC = np.concatenate(wholes) if len(wholes) == len(parts) else None
    return Calibrated(Probabilities(np.concatenate(ids), np.concatenate(values)), labels, centred_NC)


def shared_arrays(views: Calibrated, labels: LabelSpec) -> SharedArrays | None:
    """Return the basis or the class affinity that calibration views give; None where labels need neither.

    Raises:
        ValueError: A basis is needed, and the views have only their most probable classes.
    """
    if labels.components is not None:
        if views.centred_NC is None:
            raise ValueError("calibration views without all classes give no basis")
        return fitted_basis(views.centred_NC, labels.components)
    if labels.affinity is None:
        return None
    rows = affinity_rows(views.probabilities, labels.num_classes, labels.affinity["entries"])
    return encode(rows, labels.num_classes, AFFINITY_VALUES)


def _heavier(targets: Targets) -> npt.NDArray[np.int32]:
    """Return the true labels of views, int32; for mixed views, the label with more weight."""
    labels_B = targets.own_B
    if targets.weight_B is not None:
        labels_B = labels_B.where(targets.weight_B >= 0.5, targets.partner_B)
    return labels_B.cpu().numpy().astype(np.int32)
