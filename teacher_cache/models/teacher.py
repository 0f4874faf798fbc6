"""Teacher: a model of any kind in evaluation mode, its normalisation, precision, and digest of weights."""

from __future__ import annotations

import dataclasses
import json
import pkgutil
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from teacher_cache.errors import ModelError, masked
from teacher_cache.labels.class_list import ClassList
from teacher_cache.models.class_knowledge import check_names
from teacher_cache.models.class_map import MappedModel, read_class_map
from teacher_cache.models.create import resolve_device, weights_sha256
from teacher_cache.models.kinds import DEFAULT_KIND, TeacherSettings
from teacher_cache.models.teacher_model import TeacherModel, TeacherRequest
from teacher_cache.views.finish import normalize

RULED_OUT = -1e9
"""Logit of a class that the teacher rules out with -inf: finite, and its probability is 0 in float32."""
_LARGEST_MEAN, _LEAST_STD, _LARGEST_STD = 2.0, 1e-3, 4.0
"""Bounds of statistics of pixels in [0, 1]; models that take pixels from 0 to 255 have a std of 1/255."""
_ALWAYS = ("model", "model_kwargs", "weights_sha256", "num_classes", "mean", "std", "precision")


@dataclasses.dataclass(frozen=True)
class TeacherSpec:
    """Everything except the pixels that determines a teacher's logits.

    Attributes:
        model: Name of the model as KIND:NAME, or NAME alone for timm.
        model_kwargs: Further arguments of timm.create_model; {} for other kinds.
        weights_sha256: Digest of the parameters and buffers.
        num_classes: Length of the output.
        mean: Mean per channel, of pixels scaled to [0, 1]; from the model's pretrained cfg.
        std: Standard deviation per channel, of pixels scaled to [0, 1]; from the model's pretrained cfg.
        precision: Precision of the computation: float32, or bfloat16 autocast.
        settings: Values that determine the logits besides the weights; {} for timm.
        class_map_sha256: Digest of the map to the dataset's classes; None if they are the teacher's own.
    """

    model: str
    model_kwargs: dict[str, Any]
    weights_sha256: str
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    precision: str
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    class_map_sha256: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as plain JSON values; empty settings and a missing class map are left out."""
        document = {**dataclasses.asdict(self), "mean": list(self.mean), "std": list(self.std)}
        return {name: value for name, value in document.items() if name in _ALWAYS or value}


class Teacher:
    """Teacher's model on a device, ready to compute logits.

    Args:
        settings: Settings that give the memory format of the weights, and whether to compile the model.
        classes_are_known: Whether it is certain that the classes are the dataset's, in the same order.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        spec: TeacherSpec,
        device: torch.device,
        settings: TeacherSettings,
        *,
        classes_are_known: bool = False,
    ) -> None:
        self.spec, self.device, self.classes_are_known = spec, device, classes_are_known
        model = model.to(device).eval().requires_grad_(False)
        if settings.channels_last:
            model = model.to(memory_format=torch.channels_last)
        own = model.model if isinstance(model, MappedModel) else model
        self._model = torch.compile(model) if settings.compiled else model
        self._own = self._model if own is model else own

    def logits(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """Return float32 logits (B, C), on the teacher's device, of pixels (B, 3, H, W) from 0 to 255.

        A logit of -inf, of a class that the model rules out, becomes one whose probability is 0.
        """
        return self._output(self._model, pixels_BCHW)

    def own_logits(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """Return logits as `logits` does, but over the model's own classes (B, T), before a class map."""
        return self._output(self._own, pixels_BCHW)

    @torch.inference_mode()
    def _output(self, model: Callable[..., torch.Tensor], pixels_BCHW: torch.Tensor) -> torch.Tensor:
        inputs_BCHW = normalize(pixels_BCHW.to(self.device, non_blocking=True), self.spec.mean, self.spec.std)
        is_bfloat16 = self.spec.precision == "bfloat16"
        with (
            torch.autocast(self.device.type, torch.bfloat16, enabled=is_bfloat16),
            torch.backends.cudnn.flags(enabled=True, allow_tf32=is_bfloat16),  # no TF32 in float32
        ):
            logits_BC = model(inputs_BCHW).float()
        is_out_BC = logits_BC == -torch.inf
        # A view whose classes are all ruled out is left as it is, so that it is refused as not finite.
        is_out_BC &= ~is_out_BC.all(1, keepdim=True)
        return logits_BC.masked_fill(is_out_BC, RULED_OUT)


def build_teacher(
    settings: TeacherSettings, *, classes: ClassList, img_size: int, compare_names: bool = True
) -> Teacher:
    """Build a teacher with its weights.

    Args:
        classes: Classes of the dataset; if the list is empty, the teacher's own are used.
        compare_names: Check the class names that come with the weights against the dataset's.

    Raises:
        ModelError: The model cannot be built or its weights loaded (see the builder of its kind), its output
            does not fit the dataset's classes, or its classes are known to be in another order (see
            `check_names`).
    """
    _check_files(settings)
    kwargs, device = _as_json(settings.model_kwargs), resolve_device(settings.device)
    if settings.kind == DEFAULT_KIND:
        _check_kept(kwargs)
    model: TeacherModel = pkgutil.resolve_name(settings.builder)(
        TeacherRequest(
            name=settings.model,
            classes=classes if settings.class_map is None else ClassList(()),
            img_size=img_size,
            pretrained=settings.pretrained,
            checkpoint=settings.checkpoint,
            model_kwargs=kwargs,
            prompts=settings.prompts,
            device=device,
        )
    )
    _check_statistics(model, settings.name)
    _check_output(model, settings.name, img_size)
    module, num_classes, is_known, mapped = model.module, model.num_classes, model.classes_are_known, None
    if settings.class_map is not None:
        mapped = read_class_map(settings.class_map, classes, num_classes, model.class_names)
        module, num_classes = MappedModel(module, mapped), len(classes)
    elif len(classes) not in (0, num_classes):
        raise ModelError(
            f"{settings.name} knows {num_classes:,} classes, the dataset has {len(classes):,}",
            "Class ids in the labels would mean other classes than in the dataset.",
            "give --class-map FILE, which lists the teacher's classes for each class of the dataset",
        )
    elif compare_names and classes.names and not is_known:
        names = [tuple(names) for names in model.class_names]
        is_known = check_names(names, classes, settings.checkpoint or settings.name)
    is_timm, precision = settings.kind == DEFAULT_KIND, settings.precision
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" else "float32"
    spec = TeacherSpec(
        model=model.name if is_timm else f"{settings.kind}:{model.name}",
        model_kwargs=kwargs if is_timm else {},
        weights_sha256=weights_sha256(model.module),
        num_classes=num_classes,
        mean=tuple(model.mean),
        std=tuple(model.std),
        precision=precision,
        settings=dict(model.settings),
        class_map_sha256=None if mapped is None else mapped.sha256,
    )
    return Teacher(module, spec, device, settings, classes_are_known=is_known)


def _check_kept(kwargs: Mapping[str, Any]) -> None:
    """Refuse arguments that would tell of this machine in the spec, and make one teacher two."""
    for name, value in kwargs.items():
        for text in re.findall(r'"((?:[^"\\]|\\.)*)"', json.dumps(value)):
            if text.startswith(("/", "~")) or masked(text) != text:
                raise ModelError(
                    f"--model-kwargs {name}={value}: it names a place on this machine, or a secret",
                    "The archive would hold it, and the same teacher at another place would be another one.",
                    "give weights by --checkpoint, and a folder of a model by --teacher local-dir:FOLDER",
                )


def _check_files(settings: TeacherSettings) -> None:
    """Raise ModelError for prompts or a class map that the kind of teacher does not use."""
    if settings.prompts is not None and settings.kind != "clip":
        raise ModelError(
            f"--prompts {settings.prompts} with --teacher {settings.name}",
            "Only an image-text teacher, of the kind clip, reads prompts.",
            "give no prompts, or give --teacher clip:MODEL/TAG",
        )
    if settings.class_map is not None and settings.kind == "clip":
        raise ModelError(
            f"--class-map {settings.class_map} with --teacher {settings.name}",
            "The prompts of this teacher already define the dataset's classes.",
            "give no class map; the prompts file may have several prompts for a class",
        )


def _check_statistics(model: TeacherModel, name: str) -> None:
    """Refuse a mean or std that cannot be one of RGB pixels in [0, 1]. Raises ModelError."""
    fits = len(model.mean) == len(model.std) == 3
    fits = fits and all(abs(mean) <= _LARGEST_MEAN for mean in model.mean)
    if not fits or not all(_LEAST_STD <= std <= _LARGEST_STD for std in model.std):
        raise ModelError(
            f"{name} has mean {tuple(model.mean)} and std {tuple(model.std)}",
            "They do not fit three channels of pixels scaled to [0, 1]: the model would see other inputs.",
            "divide statistics of pixels from 0 to 255 by 255, such as 123.675 and 58.395 to 0.485 and 0.229",
        )


@torch.inference_mode()
def _check_output(model: TeacherModel, name: str, img_size: int) -> None:
    """Refuse a module that does not give logits (1, C) of one grey image. Raises ModelError."""
    try:
        logits_BC = model.module.eval()(torch.zeros(1, 3, img_size, img_size))
    except Exception as error:  # a module of any library, on a size that it may not take
        raise ModelError(
            f"{name} fails on an image of {img_size} px: {str(error).strip().partition(chr(10))[0]}",
            "No view of this size can be labelled.",
            "give an --img-size that the model accepts; a module of your own must run in float32 on the CPU",
        ) from error
    if model.num_classes < 2:
        raise ModelError(
            f"{name} has {model.num_classes} output",
            "The probability of a single class is always 1: nothing is learnt from it.",
            "give a teacher with a logit for each of its classes; a regression cannot be distilled",
        )
    shape = tuple(getattr(logits_BC, "shape", ()))
    if shape != (1, model.num_classes):
        raise ModelError(
            f"{name} gives {type(logits_BC).__name__} {shape} for one image, not (1, {model.num_classes})",
            "Labels need one row of logits per image.",
            "let the module return logits of shape (B, C)",
        )


def _as_json(model_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as JSON gives them back: tuples as lists. Raises ModelError if it cannot hold them."""
    try:
        return json.loads(json.dumps(dict(model_kwargs)))
    except TypeError as error:
        raise ModelError(
            f"--model-kwargs {dict(model_kwargs)}: {error}",
            "They are stored in the archive as JSON, which cannot hold these values.",
            "use only numbers, strings, lists, True, False and None",
        ) from error
