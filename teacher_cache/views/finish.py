"""The device half of a view: uint8 pixels -> a model's normalised input, batched, for teacher and student."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def normalize(images_BCHW: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Return (images / 255 - mean) / std.

    Args:
        images_BCHW: uint8 RGB on any device.
        mean: One per channel, of pixels scaled to [0, 1].
        std: One per channel, likewise.

    Returns:
        float32 (B, 3, H, W) on the same device.
    """
    scale_C = torch.tensor([1 / (255 * s) for s in std], device=images_BCHW.device)
    shift_C = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=images_BCHW.device)
    return torch.addcmul(shift_C.view(-1, 1, 1), images_BCHW.float(), scale_C.view(-1, 1, 1))
