"""Teachers of the user's own code, from a factory that is named on the command line and nowhere else."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import traceback

from teacher_cache.errors import ModelError
from teacher_cache.models.class_knowledge import load_with_names
from teacher_cache.models.teacher_model import TeacherModel, TeacherRequest


def build(request: TeacherRequest) -> TeacherModel:
    """Call the factory in MODULE:FACTORY with the model_kwargs as its arguments.

    Args:
        request: Request for the model. `pretrained` has no effect: the factory chooses the weights.

    Raises:
        ModelError: The factory cannot be imported or called, its result is not a TeacherModel, or has
            neither weights nor settings to tell it from another teacher.
    """
    spelled = f"python:{request.name}"
    model = _called(request, spelled)
    if not isinstance(model, TeacherModel):
        raise ModelError(
            f"--teacher {spelled} returned {type(model).__name__}",
            "Its normalisation and its number of classes are unknown.",
            "let the factory return a teacher_cache.TeacherModel",
        )
    if not model.module.state_dict() and not model.settings:
        raise ModelError(
            f"--teacher {spelled} has no weights and declares no settings",
            "The labels of two such teachers could not be told apart.",
            "put a version or digest of what determines its logits into TeacherModel.settings",
        )
    try:
        settings = json.loads(json.dumps(dict(model.settings), allow_nan=False))  # as a spec gives them back
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"the settings of --teacher {spelled}: {error}",
            "They are stored in the archive as JSON, which cannot hold these values.",
            "use only numbers, strings, lists, dicts, True, False and None",
        ) from error
    names, are_known = list(model.class_names), model.classes_are_known
    if request.checkpoint is not None:
        own, is_own = load_with_names(model.module, request.checkpoint, request.classes)
        names, are_known = [*names, *own], are_known or is_own
    return dataclasses.replace(model, settings=settings, class_names=names, classes_are_known=are_known)


def _called(request: TeacherRequest, spelled: str) -> object:
    """Return what the factory returns. Raises ModelError."""
    module_name, _, factory_name = request.name.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ModelError(
            f"--teacher {spelled}: {error}",
            "The factory cannot be imported.",
            "give python:package.module:factory, and put its folder on the PYTHONPATH of every worker",
        ) from error
    try:
        inspect.signature(factory).bind(**request.model_kwargs)
    except TypeError as error:
        raise ModelError(
            f"--teacher {spelled}: {factory_name}() {error}",
            "The factory was not called.",
            "correct --model-kwargs, which are passed to the factory as its arguments",
        ) from error
    try:
        return factory(**request.model_kwargs)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise ModelError(
            f"--teacher {spelled} failed at {where.filename}:{where.lineno}: {type(error).__name__}: {error}",
            "The teacher could not be built.",
            "correct the factory, or --model-kwargs, which are passed to it as its arguments",
        ) from error
