"""Request for a teacher's model of any kind, and the model: a module with all that describes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from teacher_cache.labels.class_list import ClassList


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherRequest:
    """Request for a teacher's model, as the command line makes it.

    Attributes:
        name: Name of the model, without its kind.
        classes: Classes of the dataset, which the output must match; if empty, the model's own are used.
        img_size: Side of the views in pixels.
        device: Device for what is computed while the model is built; the module itself stays on the CPU.
        pretrained: Load the model's own weights; if False, the weights are random, from a fixed seed.
        checkpoint: Path or URL of a file with the weights; None takes the model's own.
        model_kwargs: Arguments of timm.create_model, or of the factory.
        prompts: File with the prompts of the classes, for a model of images and text.
    """

    name: str
    classes: ClassList
    img_size: int
    device: torch.device
    pretrained: bool = True
    checkpoint: str | None = None
    model_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    prompts: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherModel:
    """Teacher's model with its weights, and the other values that determine its logits.

    Attributes:
        name: Name of the model that the archive records; nothing is ever loaded by this name.
        module: Module on the CPU, in float32, from normalised pixels (B, 3, H, W) to logits (B, C).
        num_classes: Number of classes C.
        mean: Mean per channel, of pixels scaled to [0, 1]. The module gets (pixels / 255 - mean) / std.
        std: Standard deviation per channel, of pixels scaled to [0, 1].
        class_names: Alternative lists of class names, each in order of class id.
        settings: Values that determine the logits besides the weights, as plain JSON values.
        classes_are_known: Whether it is certain that the classes are the dataset's, in the same order.
    """

    name: str
    module: torch.nn.Module
    num_classes: int
    mean: Sequence[float] = (0.485, 0.456, 0.406)
    std: Sequence[float] = (0.229, 0.224, 0.225)
    class_names: Sequence[Sequence[str]] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    classes_are_known: bool = False
