"""Teachers of timm, by name, with weights from the hub or a file."""

from __future__ import annotations

from typing import Any

from teacher_cache.models.checkpoint import num_outputs
from teacher_cache.models.class_knowledge import load_with_names, names_of_hub
from teacher_cache.models.create import create_model, normalization
from teacher_cache.models.teacher_model import TeacherModel, TeacherRequest


def build(request: TeacherRequest) -> TeacherModel:
    """Build a timm model; its statistics are those of its pretrained cfg.

    Raises:
        ModelError: See `create_model` and `load_weights`.
    """
    file, classes = request.checkpoint, request.classes
    module = create_model(
        request.name,
        num_classes=len(classes) or (None if file is None else num_outputs(request.name, file)),
        img_size=request.img_size,
        pretrained=request.pretrained and file is None,
        model_kwargs=request.model_kwargs,
    )
    mean, std = normalization(module)
    names, are_known = names_of_hub(module) if request.pretrained else [], False
    if file is not None:
        names, are_known = load_with_names(module, file, classes)
    config: Any = module.pretrained_cfg
    return TeacherModel(
        # A folder's path is this machine's, and no part of what the teacher is.
        name=config["architecture"] if request.name.startswith("local-dir:") else request.name,
        module=module,
        num_classes=len(classes) or int(module.num_classes),  # type: ignore[arg-type]
        mean=mean,
        std=std,
        class_names=names,
        classes_are_known=are_known,
    )
