"""Read weights from safetensors files, or torch files with weights_only, and load them into models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import safetensors
import timm.models
import torch

from teacher_cache.errors import ModelError, StoreError
from teacher_cache.labels.class_list import ClassList
from teacher_cache.storage.store import local_file

HEADER = "teacher_cache"
"""Field of a safetensors header in which `student train` describes the weights, as JSON."""


class Checkpoint(NamedTuple):
    """Weights of a model, as read from a file.

    Attributes:
        file: Path or URL of the file.
        weights: Parameters and buffers by name, from any of timm's layouts (state_dict, model, ...).
        about: Description that `student train` wrote into the file's header; {} for other files.
    """

    file: str
    weights: dict[str, Any]
    about: dict[str, Any]

    def fits(self, classes: ClassList) -> bool:
        """Return whether the weights were trained on these classes, as far as the file tells."""
        return self.about.get("classes_sha256", classes.sha256) == classes.sha256


def read_checkpoint(file: str) -> Checkpoint:
    """Read weights without unpickling anything else.

    Args:
        file: Path or URL of a safetensors or torch file.

    Raises:
        ModelError: The file does not exist, or holds more than weights.
    """
    try:
        with local_file(file) as path:
            if not Path(path).is_file():
                raise FileNotFoundError
            return Checkpoint(file, timm.models.load_state_dict(path, weights_only=True), _about(path))
    except StoreError:
        raise
    except FileNotFoundError as error:
        raise ModelError(
            f"checkpoint {file!r} is not a file", "There is nothing to load.", "give the path of one"
        ) from error
    except Exception as error:  # pickle, safetensors and torch each raise errors of their own
        raise ModelError(
            f"checkpoint {file!r} cannot be read: {error}",
            "No weights were loaded.",
            "give a safetensors file, or a torch file that holds weights alone",
        ) from error


def num_outputs(model_name: str, file: str) -> int | None:
    """Return the number of classes of a file's weights, from the bias of timm's classifier; None if unknown.

    Raises:
        ModelError: The weights cannot be read.
    """
    weights = read_checkpoint(file).weights
    config = timm.models.get_pretrained_cfg(model_name) if timm.models.is_model(model_name) else None
    found = weights.get(f"{config.classifier}.bias") if config is not None else None
    return None if found is None else len(found)


def load_into(model: torch.nn.Module, checkpoint: Checkpoint) -> None:
    """Load weights into a model, in place.

    Raises:
        ModelError: Names or shapes of the weights differ from the model's.
    """
    try:
        model.load_state_dict(checkpoint.weights)
    except RuntimeError as error:
        raise ModelError(
            f"checkpoint {checkpoint.file!r} does not fit {type(model).__name__}: {error}",
            "No weights were loaded.",
            "give the file that this model and number of classes were saved to",
        ) from error


def load_weights(model: torch.nn.Module, file: str, classes: ClassList) -> None:
    """Load a file's weights into a model, in place.

    Args:
        model: Model that gets the weights.
        file: Path or URL of the weights.
        classes: Classes of the model's output; compared with the file's, if the file names them.

    Raises:
        ModelError: The weights cannot be read or loaded, or were trained on other classes.
    """
    checkpoint = read_checkpoint(file)
    load_into(model, checkpoint)
    if not checkpoint.fits(classes):
        raise ModelError(
            f"checkpoint {file!r} was trained on another class list",
            "Its class ids would mean other classes.",
            "use the dataset it was trained on, or one packed with the same classes",
        )


def _about(path: str) -> dict[str, Any]:
    if not path.endswith(".safetensors"):
        return {}
    with safetensors.safe_open(path, framework="pt") as tensors:
        text = (tensors.metadata() or {}).get(HEADER)
    return json.loads(text) if text else {}
