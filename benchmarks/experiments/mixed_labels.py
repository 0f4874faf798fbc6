"""Mixed labels in place of labels of mixed images, as in most of DeiT's followers."""

from __future__ import annotations

import torch

from teacher_cache.batches.batch import ViewBatch
from teacher_cache.labels.topk import Labels, labels_from_logits
from teacher_cache.models.teacher import Teacher
from teacher_cache.views.finish import finish


class MixedLabels:
    """Teacher that labels both pictures of a view, and mixes the probabilities as the view is mixed."""

    def __init__(self, teacher: Teacher) -> None:
        self._teacher = teacher

    def __call__(self, batch: ViewBatch, pixels_BCHW: torch.Tensor) -> Labels:
        """Return labels of all classes, on the device of the pixels."""
        device, finishing = pixels_BCHW.device, batch.finishing
        assert finishing is not None
        count = len(batch.images_RCHW)
        unmixed = finishing._replace(
            partner_B=torch.arange(count),
            blend_B=torch.ones(count),
            box_B4=torch.zeros(count, 4, dtype=torch.int32),
            weight_B=torch.ones(count),
        )
        pixels_RCHW = finish(batch.images_RCHW.to(device), unmixed)
        shares_RC = self._teacher.logits(pixels_RCHW).softmax(1)
        own_B1 = finishing.weight_B.to(device)[:, None]
        partner_BC = shares_RC[finishing.partner_B.to(device)]
        shares_BC = own_B1 * shares_RC[: len(pixels_BCHW)] + (1 - own_B1) * partner_BC
        return labels_from_logits(shares_BC.log(), self._teacher.spec.num_classes)
