"""Weights on disk: safetensors that plain timm loads, with a description of the model in the header."""

from __future__ import annotations

import json
from typing import Any

import safetensors.torch
import torch

from teacher_cache.errors import ModelError
from teacher_cache.labels.class_list import ClassList
from teacher_cache.models.checkpoint import HEADER, load_into, read_checkpoint
from teacher_cache.models.create import create_model
from teacher_cache.storage.store import Store


def save_weights(store: Store, name: str, model: torch.nn.Module, about: dict[str, Any]) -> None:
    """Write a model's weights whole or not at all.

    Args:
        name: Name of the object, ending in .safetensors.
        about: Description for `load_student`: model, model_kwargs, num_classes, classes_sha256, img_size.
    """
    weights = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    store.put(name, safetensors.torch.save(weights, metadata={HEADER: json.dumps(about, sort_keys=True)}))


def load_student(file: str, classes: ClassList) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Build the model of a file, in evaluation mode, and return it with the file's description of the model.

    Raises:
        ModelError: `student train` did not write the file, or trained it on another class list.
    """
    checkpoint = read_checkpoint(file)
    about = checkpoint.about
    if not about:
        raise ModelError(
            f"checkpoint {file!r} does not say what model it is of",
            "It cannot be built.",
            "give a .safetensors file that `student train` wrote",
        )
    if not checkpoint.fits(classes):
        raise ModelError(
            f"checkpoint {file!r} was trained on another class list",
            "Its class ids would mean other classes.",
            "evaluate it on the dataset it was trained on, or on one packed with the same classes",
        )
    model = create_model(
        about["model"],
        num_classes=about["num_classes"],
        img_size=about["img_size"],
        model_kwargs=about["model_kwargs"],
    )
    load_into(model, checkpoint)
    return model, about
