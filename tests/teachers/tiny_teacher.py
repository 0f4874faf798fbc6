"""The tests' own teacher: small, quick to import, and without timm."""

from __future__ import annotations

import torch

from teacher_cache import TeacherModel


class TinyNet(torch.nn.Module):
    """Two convolutions and a linear head, for images of any size."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.norm = torch.nn.BatchNorm2d(width)
        self.body = torch.nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.head = torch.nn.Linear(2 * width, num_classes)

    def forward(self, inputs_BCHW: torch.Tensor) -> torch.Tensor:
        features = self.body(self.norm(self.stem(inputs_BCHW)).relu()).relu()
        return self.head(features.mean((2, 3)))


def build(num_classes: int = 3, width: int = 8, seed: int = 2) -> TeacherModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = TinyNet(num_classes, width)
    return TeacherModel(name="tiny", module=module, num_classes=num_classes)
