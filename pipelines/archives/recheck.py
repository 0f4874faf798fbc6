"""Asking the teacher again: do its answers of today fit the labels of an archive?"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from pipelines.extraction.labeller import labeller_of
from pipelines.flags.archives import VerifyConfig
from teacher_cache.archive.open import open_labels
from teacher_cache.archive.source import LabelSource
from teacher_cache.batches.batch import ViewIds
from teacher_cache.labels.encodings import ENCODINGS
from teacher_cache.labels.topk import Labels
from teacher_cache.program.progress import Track

_TOLERANCE = {"float32": 2e-3, "bfloat16": 5e-2}
"""Of a probability, by the precision of the forward pass: what another device or batch size changes."""
_MEAN_SHARE = 0.25
"""Of the tolerance: what the mean error may be."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How the teacher's answers fit the labels.

    Attributes:
        views: Asked.
        max_error, mean_error: Of a probability: of a class that a label names, its difference; of one it does
            not, how far it exceeds the last named.
        top1: Share of views whose most probable class is the label's first.
        tolerance: What max_error may be: of the precision, and of eight-bit values.
    """

    views: int
    max_error: float
    mean_error: float
    top1: float
    tolerance: float

    @property
    def fits(self) -> bool:
        """Whether the labels are the teacher's."""
        return self.max_error <= self.tolerance and self.mean_error <= _MEAN_SHARE * self.tolerance


def recheck(config: VerifyConfig, track: Track) -> Agreement:
    """Compute random views of an archive again, and compare.

    Raises:
        ArchiveError: The dataset or the teacher is not the archive's, or a label is damaged.
    """
    assert config.data is not None
    archive = open_labels(config.archive, config.room)
    labeller = labeller_of(archive, config.data, config)
    errors, hits = [], []
    with track("verify teacher", config.num_views, "views") as advance:
        loads = _loads(len(labeller.dataset), archive, config)
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


def _loads(num_rows: int, archive: LabelSource, config: VerifyConfig) -> list[list[ViewIds]]:
    rng = np.random.default_rng(config.seed)
    rows_N = rng.integers(0, num_rows, config.num_views)
    views_N = rng.choice(np.array(archive.views), config.num_views)
    stops = range(config.batch_size, config.num_views, config.batch_size)
    parts = zip(np.split(rows_N, stops), np.split(views_N, stops), strict=True)
    return [[ViewIds(rows_B, views_B)] for rows_B, views_B in parts]


def _errors(labels: Labels, logits_BC: torch.Tensor) -> torch.Tensor:
    live_BC = logits_BC.softmax(1)
    kept_BK = labels.probabilities()
    ids_BK = labels.class_ids_BK.long()
    named_B = (live_BC.gather(1, ids_BK) - kept_BK).abs().max(1).values
    others_BC = live_BC.scatter(1, ids_BK, 0.0)
    return torch.maximum(named_B, others_BC.max(1).values - kept_BK[:, -1])
