"""The student: any timm model, with one head or with DeiT's two."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

HEADS = ("class", "distillation", "both_softmax", "both_logits")
"""Names of the accuracies of a model with two heads; a model with one head has only the first."""


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
    """Return the logits of class head and distillation head; timm returns their mean in `eval()`."""
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


_PEAK_FLOPS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "V100": 125e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
}
"""Dense half-precision tensor operations a second, from NVIDIA's data sheets for the SXM variants."""


@dataclasses.dataclass(frozen=True)
class ModelCost:
    """Cost of training on one image.

    Attributes:
        flops: Floating-point operations of a forward and a backward pass over one image: three forwards.
        activation_bytes: Bytes that autograd keeps of one image between the two passes.
    """

    num_parameters: int
    flops: int
    activation_bytes: int

    def memory_bytes(self, batch_size: int, *, has_ema: bool) -> int:
        """Return an estimate of training's bytes: weights, gradients, two moments, an average, activations.

        It leaves out the allocator's fragmentation, the framework itself and a live teacher.
        """
        return 4 * self.num_parameters * (5 if has_ema else 4) + batch_size * self.activation_bytes


def model_cost(model: torch.nn.Module, img_size: int, autocast: torch.dtype | None) -> ModelCost:
    """Count a model's cost by running one image through it, on the model's device."""
    parameter = next(model.parameters())
    image_1CHW = torch.zeros(1, 3, img_size, img_size, device=parameter.device)
    own = {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    was_training = model.training
    counter = FlopCounterMode(display=False)
    with (
        counter,
        torch.random.fork_rng(devices=[]),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast(parameter.device.type, autocast, enabled=autocast is not None),
    ):
        heads = as_heads(model.eval()(image_1CHW))
        held = heads  # kept storages must not be freed here: their addresses would be reused and counted once
    del held
    model.train(was_training)
    return ModelCost(
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        flops=3 * counter.get_total_flops(),
        activation_bytes=sum(kept.values()),
    )


def peak_flops(device: torch.device) -> float | None:
    """Return the half-precision operations a second of a device, or None if they are unknown."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((flops for part, flops in _PEAK_FLOPS.items() if part in name), None)
