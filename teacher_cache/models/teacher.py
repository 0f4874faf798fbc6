"""Teacher: a model in evaluation mode, its normalisation, precision, and the digest of its weights."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch

from teacher_cache.errors import ModelError
from teacher_cache.labels.class_list import ClassList
from teacher_cache.models.checkpoint import load_weights, num_outputs
from teacher_cache.models.class_knowledge import check_names, names_of_file, names_of_hub
from teacher_cache.models.create import create_model, normalization, weights_sha256
from teacher_cache.storage.store import local_file
from teacher_cache.views.finish import normalize

Precision = Literal["auto", "float32", "bfloat16"]


KINDS: Mapping[str, Callable[..., torch.nn.Module]] = {"timm": create_model}
"""Functions that build a teacher's model, by the kind in KIND:MODEL; a name without a kind is timm's."""


@dataclasses.dataclass(frozen=True)
class TeacherSpec:
    """Everything except the pixels that determines a teacher's logits.

    Attributes:
        model: Name of the model in timm.
        model_kwargs: Further arguments of timm.create_model.
        weights_sha256: Digest of the parameters and buffers.
        num_classes: Length of the output.
        mean: Mean per channel, of pixels scaled to [0, 1]; from the model's pretrained cfg.
        std: Standard deviation per channel, of pixels scaled to [0, 1]; from the model's pretrained cfg.
        precision: Precision of the computation: float32, or bfloat16 autocast.
    """

    model: str
    model_kwargs: dict[str, Any]
    weights_sha256: str
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    precision: str

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as plain JSON values."""
        return {**dataclasses.asdict(self), "mean": list(self.mean), "std": list(self.std)}


class Teacher:
    """Teacher on a device.

    Args:
        model: Model with its weights.
        spec: Spec of the teacher.
        device: Device that runs the model.
        channels_last: Lay the weights out as the pixels are, which makes convolutions faster.
        compiled: Compile the model with torch.compile, which changes the last bits of the logits.
        classes_are_known: Whether the weights tell that the classes are the dataset's, in its order.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        spec: TeacherSpec,
        device: torch.device,
        *,
        channels_last: bool = True,
        compiled: bool = False,
        classes_are_known: bool = False,
    ) -> None:
        self.spec, self.device, self.classes_are_known = spec, device, classes_are_known
        model = model.to(device).eval().requires_grad_(False)
        if channels_last:
            model = model.to(memory_format=torch.channels_last)
        self._model = torch.compile(model) if compiled else model

    @torch.inference_mode()
    def logits(self, pixels_BCHW: torch.Tensor) -> torch.Tensor:
        """Return float32 logits (B, C), on the teacher's device, of pixels (B, 3, H, W) from 0 to 255."""
        inputs_BCHW = normalize(pixels_BCHW.to(self.device, non_blocking=True), self.spec.mean, self.spec.std)
        is_bfloat16 = self.spec.precision == "bfloat16"
        with (
            torch.autocast(self.device.type, torch.bfloat16, enabled=is_bfloat16),
            torch.backends.cudnn.flags(enabled=True, allow_tf32=is_bfloat16),  # no TF32 in float32
        ):
            return self._model(inputs_BCHW).float()


def build_teacher(
    name: str,
    *,
    classes: ClassList,
    img_size: int,
    device: torch.device,
    pretrained: bool = True,
    checkpoint: str | None = None,
    model_kwargs: dict[str, Any] | None = None,
    precision: Precision = "auto",
    channels_last: bool = True,
    compiled: bool = False,
    compare_names: bool = True,
) -> Teacher:
    """Build a teacher with its weights.

    Args:
        name: MODEL in timm, or KIND:MODEL for a kind in KINDS.
        classes: Classes of the dataset; an empty list takes the teacher's own.
        img_size: Side of the input in pixels.
        device: Device that runs the teacher.
        pretrained: Load weights from the hub, unless a checkpoint is given; with neither, they are random.
        checkpoint: Path or URL of a safetensors or torch file with the weights.
        model_kwargs: Further arguments of timm.create_model.
        precision: Precision of the computation; "auto" is bfloat16 autocast on CUDA, float32 elsewhere.
        channels_last: Lay the weights out with channels last; see `Teacher`.
        compiled: Compile the model; see `Teacher`.
        compare_names: Compare the class names that the weights are known by with the dataset's.

    Raises:
        ModelError: The model cannot be built or its weights loaded: see `create_model` and `load_weights`;
            or its classes are known to be in another order: see `check_names`.
    """
    model_kwargs = _as_json(model_kwargs or {})
    kind, _, rest = name.partition(":")
    create, model_name = (KINDS[kind], rest) if kind in KINDS else (create_model, name)
    model = create(
        model_name,
        num_classes=len(classes) or (None if checkpoint is None else num_outputs(model_name, checkpoint)),
        img_size=img_size,
        pretrained=pretrained and checkpoint is None,
        model_kwargs=model_kwargs,
    )
    is_known = checkpoint is not None and load_weights(model, checkpoint, classes)
    if compare_names and classes.names and not is_known:
        known = []
        if checkpoint is not None:
            with local_file(checkpoint) as path:
                known = names_of_file(path)
        elif pretrained:
            known = names_of_hub(model)
        is_known = check_names(known, classes, checkpoint or name)
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" else "float32"
    mean, std = normalization(model)
    spec = TeacherSpec(
        model=name,
        model_kwargs=model_kwargs,
        weights_sha256=weights_sha256(model),
        num_classes=len(classes) or int(model.num_classes),  # type: ignore[arg-type]
        mean=mean,
        std=std,
        precision=precision,
    )
    return Teacher(
        model,
        spec,
        device,
        channels_last=channels_last,
        compiled=compiled,
        classes_are_known=is_known,
    )


def _as_json(model_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments as a document gives them back: tuples as lists. Raises ModelError."""
    try:
        return json.loads(json.dumps(dict(model_kwargs)))
    except TypeError as error:
        raise ModelError(
            f"--model-kwargs {dict(model_kwargs)}: {error}",
            "They are part of the archive's description, and could not be read back.",
            "give numbers, text, lists and True, False or None",
        ) from error
