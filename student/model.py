"""The student: any timm model, with one head or with DeiT's two."""

from __future__ import annotations

from typing import NamedTuple

import torch

HEADS = ("class", "distillation", "both_softmax", "both_logits")
"""Accuracies that `student eval` prints for a two-headed model; for any other, the first alone."""


class Heads(NamedTuple):
    """Outputs of a model: logits (B, C) of its class head, and of its distillation head if it has one."""

    class_BC: torch.Tensor
    distillation_BC: torch.Tensor | None

    @property
    def taught_BC(self) -> torch.Tensor:  # noqa: N802  # its shape
        """Logits (B, C) that the teacher's term acts on: the distillation head's, or the only head's."""
        return self.class_BC if self.distillation_BC is None else self.distillation_BC


def train_both_heads(model: torch.nn.Module) -> None:
    """Make a distilled DeiT return both heads' logits in training; timm averages them otherwise."""
    if has_two_heads(model):
        model.set_distilled_training(True)  # type: ignore[operator]


def has_two_heads(model: torch.nn.Module) -> bool:
    """Return whether the model has a distillation token with a head of its own."""
    return hasattr(model, "head_dist") and hasattr(model, "set_distilled_training")


def as_heads(output: torch.Tensor | tuple[torch.Tensor, torch.Tensor]) -> Heads:
    """Return the output of a model in training mode as Heads."""
    return Heads(*output) if isinstance(output, tuple) else Heads(output, None)


def evaluation_heads(model: torch.nn.Module, inputs_BCHW: torch.Tensor) -> Heads:
    """Return both heads' logits of a model in evaluation mode, where timm would average them."""
    if not has_two_heads(model):
        return Heads(model(inputs_BCHW), None)
    said: list[torch.Tensor] = []
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda _module, _inputs, output: said.append(output))
        for name in ("head", "head_dist")
    ]
    try:
        model(inputs_BCHW)
    finally:
        for hook in hooks:
            hook.remove()
    return Heads(*said)
