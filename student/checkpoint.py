"""Weights on disk: safetensors that plain timm loads, with what they are in the header."""

from __future__ import annotations

import json
from typing import Any

import safetensors.torch
import torch

from teacher_cache.errors import ModelError, StoreError
from teacher_cache.models.create import checkpoint_metadata, create_model, load_weights
from teacher_cache.storage.store import Store, local_file


def save_weights(store: Store, name: str, model: torch.nn.Module, about: dict[str, Any]) -> None:
    """Write a model's weights whole or not at all.

    Args:
        store: Where.
        name: Of the object, ending in .safetensors.
        model: Whose.
        about: model, model_kwargs, num_classes, classes_sha256, img_size: what `load_student` needs.
    """
    weights = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    store.put(
        name, safetensors.torch.save(weights, metadata={"teacher_cache": json.dumps(about, sort_keys=True)})
    )


def load_student(file: str, classes_sha256: str) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Build the model a file holds, in evaluation mode, and return what the file says of it.

    Raises:
        ModelError: It is not a file that `student train` wrote, or was trained on another class list.
    """
    try:
        with local_file(file) as path:
            about = checkpoint_metadata(path)
    except StoreError:
        raise
    except Exception as error:  # safetensors raises errors of its own kinds
        raise ModelError(
            f"checkpoint {file!r} cannot be read: {error}", "There is nothing to load."
        ) from error
    if not about:
        raise ModelError(
            f"checkpoint {file!r} does not say what model it is of",
            "It cannot be built.",
            "give a .safetensors file that `student train` wrote",
        )
    model = create_model(
        about["model"],
        num_classes=about["num_classes"],
        img_size=about["img_size"],
        model_kwargs=about["model_kwargs"],
    )
    load_weights(model, file, classes_sha256)
    return model, about
