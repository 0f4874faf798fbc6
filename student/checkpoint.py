"""Weights on disk: safetensors that plain timm loads, with a description of the model in the header."""

from __future__ import annotations

import json
from typing import Any

import safetensors.torch
import torch
from timm.models import push_to_hf_hub

from teacher_cache.errors import ModelError, TeacherCacheError
from teacher_cache.labels.class_list import ClassList
from teacher_cache.models.checkpoint import HEADER, load_into, read_checkpoint
from teacher_cache.models.create import create_model, normalization
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
    """Return the model whose weights a file holds, in evaluation mode, and the file's description of it.

    Raises:
        ModelError: `student train` did not write the file, or trained it on another class list.
    """
    checkpoint = read_checkpoint(file)
    about = checkpoint.about
    if not about:
        raise ModelError(
            f"checkpoint {file!r} has no description of its model",
            "The model cannot be built.",
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
    """Push a model's weights to a Hugging Face repository.

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
