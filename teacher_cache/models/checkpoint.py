"""Read weights from safetensors files, or torch files with weights_only, and load them into models."""

from __future__ import annotations

import argparse
import codecs
import inspect
import json
import pathlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import safetensors
import safetensors.torch
import torch

from teacher_cache.errors import ModelError, StoreError
from teacher_cache.labels.class_list import ClassList
from teacher_cache.storage.local_copies import local_file

HEADER = "teacher_cache"
"""Field of a safetensors header in which `student train` describes the weights, as JSON."""


_WRAPPERS = ("module.", "_orig_mod.")


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
        """Return whether the weights were trained on these classes; true if the file does not say."""
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
            if is_safetensors(path):
                weights = _without_wrappers(safetensors.torch.load_file(path))
            else:
                import timm.models

                with torch.serialization.safe_globals(safe_types()):
                    weights = timm.models.load_state_dict(path, weights_only=True)
            return Checkpoint(file, weights, _about(path))
    except StoreError:
        raise
    except FileNotFoundError as error:
        raise ModelError(
            f"checkpoint {file!r} is not a file", "No weights were loaded.", "check the path or URL"
        ) from error
    except Exception as error:  # pickle, safetensors and torch each raise errors of their own
        raise ModelError(
            f"checkpoint {file!r} cannot be read: {_reason(error)}",
            "No weights were loaded.",
            "give a safetensors file, or save the weights alone: torch.save(model.state_dict(), FILE)",
        ) from error


def num_outputs(model_name: str, file: str) -> int | None:
    """Return the number of classes of a file's weights, from the bias of timm's classifier; None if unknown.

    Raises:
        ModelError: The weights cannot be read.
    """
    import timm.models

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
        model.load_state_dict(_without_prefix(checkpoint.weights, model.state_dict()))
    except RuntimeError as error:
        raise ModelError(
            f"checkpoint {checkpoint.file!r} does not fit {type(model).__name__}: {error}",
            "No weights were loaded.",
            "give a checkpoint of this model with the same number of classes",
        ) from error


def begin_with(model: torch.nn.Module, file: str, classes: ClassList) -> list[str]:
    """Load a file's weights into a model in place; image size and classes may differ from the file's.

    timm interpolates position embeddings, bicubically as in DeiT (main.py, lines 288 to 306). A head keeps
    its own weights if the file's head has another number of classes, or was trained on another class list.

    Args:
        model: Model of the same architecture.
        file: Path or URL of the weights.

    Returns:
        Names of the head weights that were not loaded; empty if all were.

    Raises:
        ModelError: There is no such file, or the file is of another model.
    """
    config: Any = model.pretrained_cfg
    heads = [config["classifier"]] if isinstance(config["classifier"], str) else list(config["classifier"])
    own = model.state_dict()
    fresh: list[str] = []
    checkpoint = read_checkpoint(file)
    try:
        weights = _interpolated(model, checkpoint.weights)
    except (RuntimeError, KeyError, ValueError) as error:  # raised by timm's filters for other architectures
        raise ModelError(
            f"checkpoint {file!r} does not fit {type(model).__name__}: {error}",
            "No weights were loaded.",
            "give a file of the same --model and --model-kwargs; image size and classes may differ",
        ) from error
    for name in own:
        is_head = any(name.startswith(f"{head}.") for head in heads)
        fits = name in weights and weights[name].shape == own[name].shape
        if is_head and not (fits and checkpoint.fits(classes)):
            weights[name] = own[name]
            fresh.append(name)
    load_into(model, checkpoint._replace(weights=weights))
    return fresh


def _interpolated(model: torch.nn.Module, weights: dict[str, Any]) -> dict[str, Any]:
    """Return weights with positions interpolated to the model's image size, if its timm module can do so."""
    interpolate = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if interpolate is None:
        return dict(weights)
    # timm's antialiased bicubic has other coefficients than the plain one, which DeiT's code uses
    takes_antialias = "antialias" in inspect.signature(interpolate).parameters
    return interpolate(weights, model, **({"antialias": False} if takes_antialias else {}))


def is_safetensors(path: str) -> bool:
    """Return whether a local file begins as safetensors do."""
    with Path(path).open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < 2**27


def safe_types() -> list[Any]:
    """Return the types besides tensors that may be unpickled: common in checkpoints, and they run no code."""
    numbers = [type(numpy.dtype(name)) for name in ("float64", "float32", "int64", "int32", "bool")]
    scalar: Any = numpy.float64(0).__reduce__()[0]
    return [scalar, numpy.dtype, *numbers, pathlib.PosixPath, argparse.Namespace, codecs.encode]


def _reason(error: Exception) -> str:
    """Return the first line of an error, without torch's advice to allow unpickling of any object."""
    text = str(error).strip().partition("\n")[0]
    found = re.search(r"Unsupported (?:global|class|operand)[^.\n]*(?:\.\w+)*", str(error))
    return f"it holds more than weights ({found[0]})" if found else text or type(error).__name__


def _without_wrappers(weights: dict[str, Any]) -> dict[str, Any]:
    """Return weights under the names that they had before DistributedDataParallel or torch.compile."""
    if not any(name.startswith(_WRAPPERS) for name in weights):
        return weights
    import timm.models  # it takes seconds, and few files need it

    return timm.models.clean_state_dict(weights)


def _without_prefix(weights: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return weights under a model's own names, if they all have one prefix, such as Lightning's "model."."""
    first = next(iter(own), "")
    prefixes = [name.removesuffix(first) for name in weights if name.endswith(f".{first}")]
    for prefix in prefixes:
        if first not in weights and all(f"{prefix}{name}" in weights for name in own):
            return {name: weights[f"{prefix}{name}"] for name in own}
    return weights


def load_weights(model: torch.nn.Module, file: str, classes: ClassList) -> bool:
    """Load a file's weights into a model, in place; return whether the file records exactly these classes.

    Args:
        file: Path or URL of the weights.
        classes: Classes of the model's output, compared with those recorded in the file, if any; empty skips
            the comparison.

    Raises:
        ModelError: The weights cannot be read or loaded, or were trained on other classes.
    """
    checkpoint = read_checkpoint(file)
    load_into(model, checkpoint)
    if classes.names and not checkpoint.fits(classes):
        raise ModelError(
            f"checkpoint {file!r} was trained on another class list",
            "Its class ids do not stand for the dataset's classes.",
            "use the dataset it was trained on, or one packed with the same classes",
        )
    return checkpoint.about.get("classes_sha256") == classes.sha256


def _about(path: str) -> dict[str, Any]:
    if not is_safetensors(path):
        return {}
    with safetensors.safe_open(path, framework="pt") as tensors:
        text = (tensors.metadata() or {}).get(HEADER)
    return json.loads(text) if text else {}
