"""What a worker is told and what it tells of itself: plain data that travels, without torch."""

from __future__ import annotations

import dataclasses
from typing import Any

from pipelines.flags.extract import LabelRequest
from teacher_cache.views.recipe import Recipe


@dataclasses.dataclass(frozen=True)
class WorkOrder:
    """Everything a worker is made from, wherever it runs.

    Attributes:
        request: What is asked; its paths must lead to the same on every machine that has a worker.
        recipe: As the driver read it: a recipe's file need not be on other machines.
    """

    request: LabelRequest
    recipe: Recipe


@dataclasses.dataclass(frozen=True)
class Description:
    """What a worker has.

    Attributes:
        teacher: TeacherSpec.to_dict().
        probe_sha256: Digest of the recipe's probe views as its libraries render them.
        made_with: Versions of these libraries.
        device: What the teacher runs on, by name.
    """

    teacher: dict[str, Any]
    probe_sha256: str
    made_with: dict[str, str]
    device: str


@dataclasses.dataclass(frozen=True)
class Rate:
    """What a worker did in a short measurement on the real images and device.

    Attributes:
        views: Labelled while it was timed.
        seconds: It took.
        render_s: Of these, seconds the teacher waited for views.
        bytes_per_label: Of the views' labels as they are stored.
    """

    views: int
    seconds: float
    render_s: float
    bytes_per_label: float

    @property
    def views_per_s(self) -> float:
        """Of one worker, rendering and teacher together."""
        return self.views / max(self.seconds, 1e-9)

    @property
    def teacher_s_per_view(self) -> float:
        """What a live teacher adds to a step, per view."""
        return max(self.seconds - self.render_s, 0.0) / self.views
