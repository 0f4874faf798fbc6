"""Label some views of an archive again, and compare the teacher's outputs with the stored labels."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch

from pipelines.archive.flags import VerifyConfig
from pipelines.extraction.worker.labeller import labeller_of
from teacher_cache.archive.format.trust import Trust
from teacher_cache.archive.open import open_trusted
from teacher_cache.archive.readers.source import LabelSource
from teacher_cache.batches.rendered import ViewIds
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import ArchiveError
from teacher_cache.labels.encodings import ENCODINGS
from teacher_cache.labels.topk import OneLabels
from teacher_cache.program.progress import Track

_TOLERANCE = {"float32": 2e-3, "bfloat16": 5e-2}
"""Largest change of a probability by another device or batch size, by precision of the forward pass."""
_MEAN_SHARE = 0.25
"""Largest mean error, as a share of the tolerance."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Comparison of the teacher's new outputs with the labels in the archive.

    Attributes:
        views: Number of views labelled again.
        max_error, mean_error: Maximum and mean of the views' errors in probability: the difference in a
            stored class, or the excess of another class over the last stored one, whichever is larger.
        top1: Share of views whose most probable class is also that of the stored label.
        tolerance: Largest allowed max_error: allowances for the precision and the encoding of logits.
    """

    views: int
    max_error: float
    mean_error: float
    top1: float
    tolerance: float

    @property
    def fits(self) -> bool:
        """Whether the labels are the teacher's, within the tolerance."""
        return self.max_error <= self.tolerance and self.mean_error <= _MEAN_SHARE * self.tolerance


def recheck(config: VerifyConfig, trust: Trust, track: Track) -> Agreement:
    """Label random views of an archive again, and compare.

    Args:
        trust: Conditions that the archive must fulfil.

    Raises:
        ArchiveError: The dataset or the teacher is not the archive's, or a label is damaged.
    """
    assert config.data is not None
    archive = open_trusted(config.archive, config.room, trust)
    if not archive.views:
        raise ArchiveError(
            f"{archive.url} has no view that is labelled in all its shards",
            "The teacher has no view to label again.",
            "pull the missing units first",
        )
    labeller = labeller_of(
        archive,
        PackedDataset(config.data, config.room, config.images_in),
        config.settings(config.teacher or ""),
        batch_size=config.batch_size,
        workers=config.workers,
    )
    errors, hits = [], []
    with track("verify teacher", config.num_views, "views") as advance:
        loads = _loads(_labelled_rows(len(labeller.dataset), archive), archive, config)
        for batch, logits_BC in labeller.logits(loads, "the views asked again"):
            labels = archive.lookup(batch.rows_B.numpy(), batch.views_B.numpy())
            errors.append(_errors(labels, logits_BC.cpu()))
            hits.append(labels.class_ids_BK[:, 0] == logits_BC.cpu().argmax(1))
            advance(len(batch.rows_B))
    error = torch.cat(errors)
    # a probability moves by up to half a step in its logit, in the sum and in the tail each
    quantised = ENCODINGS[archive.spec.labels.values].step / 2
    return Agreement(
        len(error),
        round(error.max().item(), 6),
        round(error.mean().item(), 6),
        round(torch.cat(hits).float().mean().item(), 6),
        _TOLERANCE[labeller.teacher.spec.precision] + quantised,
    )


def _labelled_rows(num_rows: int, archive: LabelSource) -> npt.NDArray[np.int64]:
    rows_N = np.arange(num_rows)
    if archive.shards is None:
        return rows_N
    return rows_N[np.isin(rows_N // archive.spec.layout.rows_per_shard, archive.shards)]


def _loads(rows_R: npt.NDArray[np.int64], archive: LabelSource, config: VerifyConfig) -> list[list[ViewIds]]:
    rng = np.random.default_rng(config.seed)
    rows_N = rows_R[rng.integers(0, len(rows_R), config.num_views)]
    views_N = rng.choice(np.array(archive.views), config.num_views)
    stops = range(config.batch_size, config.num_views, config.batch_size)
    parts = zip(np.split(rows_N, stops), np.split(views_N, stops), strict=True)
    return [[ViewIds(rows_B, views_B)] for rows_B, views_B in parts]


def _errors(labels: OneLabels, logits_BC: torch.Tensor) -> torch.Tensor:
    live_BC = logits_BC.softmax(1)
    kept_BK = labels.probabilities()
    ids_BK = labels.class_ids_BK.long()
    named_B = (live_BC.gather(1, ids_BK) - kept_BK).abs().max(1).values
    others_BC = live_BC.scatter(1, ids_BK, 0.0)
    return torch.maximum(named_B, others_BC.max(1).values - kept_BK[:, -1])
