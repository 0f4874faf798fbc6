"""Push trained weights to the Hugging Face hub, where timm finds them: timm.create_model("hf-hub:...")."""

from __future__ import annotations

from typing import Any

import torch
from timm.models import push_to_hf_hub

from teacher_cache.errors import TeacherCacheError
from teacher_cache.models.create import normalization


def hub_settings(
    model: torch.nn.Module, model_kwargs: dict[str, Any], img_size: int, crop_pct: float
) -> dict[str, Any]:
    """Return the settings that timm writes beside the weights, to rebuild the model and its transform."""
    mean, std = normalization(model)
    size = {"img_size": img_size} if hasattr(model, "patch_embed") else {}
    return {
        "model_args": {**model_kwargs, **size},
        "data_config": {
            "input_size": (3, img_size, img_size),
            "mean": mean,
            "std": std,
            "crop_pct": crop_pct,
            "interpolation": "bicubic",
        },
        "safe_serialization": True,
    }


def push(model: torch.nn.Module, repository: str, settings: dict[str, Any], saved_as: str) -> None:
    """Push a model's weights.

    Args:
        repository: Repository OWNER/NAME; created if it does not exist.
        saved_as: Path of the saved weights, for the error.

    Raises:
        TeacherCacheError: The push failed.
    """
    try:
        push_to_hf_hub(model, repository, **settings)
    except Exception as error:  # the network, the hub and its tokens each have error types of their own
        raise TeacherCacheError(
            f"--push-to-hub {repository}: {error}",
            f"The weights are not on the hub; they are in {saved_as}.",
            "check the network, the name, and `hf auth login`",
        ) from error
