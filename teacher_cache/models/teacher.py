"""The teacher: a model in evaluation mode, its normalisation, precision, and digest of its weights."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch

from teacher_cache.labels.class_list import ClassList
from teacher_cache.models.checkpoint import load_weights
from teacher_cache.models.create import create_model, normalization, weights_sha256
from teacher_cache.views.finish import normalize

Precision = Literal["auto", "float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class TeacherSpec:
    """What determines a teacher's logits, besides the pixels.

    Attributes:
        model: Name in timm.
        model_kwargs: The rest of timm.create_model's arguments.
        weights_sha256: Digest of its parameters and buffers.
        num_classes: Length of its output.
        mean: Per channel, of pixels scaled to [0, 1]; from its pretrained cfg.
        std: Likewise.
        precision: float32, or bfloat16 autocast.
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
    """A teacher on a device.

    Args:
        model: With its weights.
        spec: What it is.
        device: Where it runs.
        channels_last: Lay its weights out as the pixels lie: convolutions run faster so.
        compiled: Compile it with torch.compile; the last bits of its logits change.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        spec: TeacherSpec,
        device: torch.device,
        *,
        channels_last: bool = True,
        compiled: bool = False,
    ) -> None:
        self.spec, self.device = spec, device
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
            torch.backends.cudnn.flags(enabled=True, allow_tf32=is_bfloat16),  # float32 means float32
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
) -> Teacher:
    """Build a teacher with its weights.

    Args:
        name: Name in timm.
        classes: Classes of the dataset.
        img_size: Side of its input in pixels.
        device: Where it runs.
        pretrained: Weights from the hub; ignored where a checkpoint is given. Neither: seeded random weights.
        checkpoint: A safetensors or torch file with its weights.
        model_kwargs: Anything else for timm.create_model.
        precision: "auto" is bfloat16 autocast on CUDA, float32 elsewhere.
        channels_last: See `Teacher`.
        compiled: Likewise.

    Raises:
        ModelError: See `create_model` and `load_weights`.
    """
    model = create_model(
        name,
        num_classes=len(classes),
        img_size=img_size,
        pretrained=pretrained and checkpoint is None,
        model_kwargs=model_kwargs,
    )
    if checkpoint is not None:
        load_weights(model, checkpoint, classes)
    if precision == "auto":
        precision = "bfloat16" if device.type == "cuda" else "float32"
    mean, std = normalization(model)
    spec = TeacherSpec(
        model=name,
        model_kwargs=dict(model_kwargs or {}),
        weights_sha256=weights_sha256(model),
        num_classes=len(classes),
        mean=mean,
        std=std,
        precision=precision,
    )
    return Teacher(model, spec, device, channels_last=channels_last, compiled=compiled)
