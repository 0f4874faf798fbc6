"""Kinds of teachers, by the prefix in timm:NAME, hf:OWNER/NAME, clip:MODEL/TAG and python:MODULE:FACTORY."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from teacher_cache.program.flags import modules_in

Precision = Literal["auto", "float32", "bfloat16"]
"""Types of a teacher's forward pass; auto takes bfloat16 on CUDA, float32 elsewhere."""

DEFAULT_KIND = "timm"
"""Kind of a name without a prefix."""

KINDS = tuple(
    name.removesuffix("_teacher") for name in modules_in("teacher_cache.models") if name.endswith("_teacher")
)
"""Kinds of teachers, one per module KIND_teacher.py; its build(TeacherRequest) returns a TeacherModel."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    """Teacher to load and how to run it, as plain values that a process can hold without importing torch.

    Attributes:
        name: MODEL for timm, or KIND:MODEL for a kind in KINDS; timm's own prefixes are part of MODEL.
        checkpoint: Path or URL of a safetensors or torch file with the weights; None takes the hub's.
        pretrained: Load weights from the hub, unless a checkpoint is given; with neither, they are random.
        model_kwargs: Further arguments of timm.create_model, or of a factory.
        prompts: Path or URL of the classes' prompts, for models of images and text.
        class_map: Path or URL of a map from the teacher's classes to the dataset's.
        precision: Type of the forward pass.
        device: Name of the device; "auto" takes CUDA where there is one.
        channels_last: Use the channels-last memory format, which makes convolutions faster.
        compiled: Compile the model with torch.compile, which changes the last bits of the logits.
    """

    name: str
    checkpoint: str | None = None
    pretrained: bool = True
    model_kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    prompts: str | None = None
    class_map: str | None = None
    precision: Precision = "auto"
    device: str = "auto"
    channels_last: bool = True
    compiled: bool = False

    @property
    def kind(self) -> str:
        """Kind of the teacher."""
        kind = self.name.partition(":")[0]
        return kind if kind in KINDS else DEFAULT_KIND

    @property
    def builder(self) -> str:
        """Function that builds a model of the kind, as MODULE:FUNCTION."""
        return f"teacher_cache.models.{self.kind}_teacher:build"

    @property
    def model(self) -> str:
        """Name without the kind."""
        return self.name.removeprefix(f"{self.kind}:")

    @property
    def is_random(self) -> bool:
        """Whether the weights are random, because neither the hub's nor a file's are wanted."""
        return not self.pretrained and self.checkpoint is None
