"""A user's own teacher: what `--teacher python:own_teacher:build` calls."""

from __future__ import annotations

import time

import torch

from teacher_cache import TeacherModel


class MeanColour(torch.nn.Module):
    """Linear classifier of the mean colour of each quarter of an image, which may pause at each batch."""

    def __init__(self, num_classes: int, gain: float, pause_s: float = 0.0) -> None:
        super().__init__()
        self.gain, self.pause_s = gain, pause_s
        self.head = torch.nn.Linear(12, num_classes)

    def forward(self, inputs_BCHW: torch.Tensor) -> torch.Tensor:
        time.sleep(self.pause_s)
        return self.gain * self.head(torch.nn.functional.adaptive_avg_pool2d(inputs_BCHW, 2).flatten(1))


def build(
    num_classes: int = 3, gain: float = 4.0, seed: int = 0, pause_s: float = 0.0, **changes: object
) -> TeacherModel:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = MeanColour(num_classes, gain, pause_s)
    fields = {"num_classes": num_classes, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}
    return TeacherModel(name="mean-colour", module=module, settings={"gain": gain}, **{**fields, **changes})


def build_without_identity() -> TeacherModel:
    return TeacherModel(name="pool", module=torch.nn.AdaptiveAvgPool2d(1), num_classes=3)


def build_something_else() -> torch.nn.Module:
    return MeanColour(3, 1.0)
