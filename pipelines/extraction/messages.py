"""Messages from a worker to the driver: plain data that can be pickled, and needs no torch."""

from __future__ import annotations

import dataclasses
from typing import Any

from teacher_cache.labels.agreement import Agreement


@dataclasses.dataclass(frozen=True)
class Description:
    """Teacher, libraries and device of a worker.

    Attributes:
        teacher: Dictionary from `TeacherSpec.to_dict`.
        probe_sha256: Digest of the recipe's probe views as the worker's libraries render them.
        made_with: Versions of these libraries.
        device: Name of the teacher's device.
        classes_are_known: Whether the teacher's weights tell that its classes are the dataset's.
    """

    teacher: dict[str, Any]
    probe_sha256: str
    made_with: dict[str, str]
    device: str
    classes_are_known: bool = False


@dataclasses.dataclass(frozen=True)
class Rate:
    """Result of a worker's short measurement on the real images and device.

    Attributes:
        views: Views labelled while timed.
        seconds: Seconds that the views took.
        render_s: Seconds of these that the teacher waited for views.
        bytes_per_label: Stored bytes of a label.
        outputs: What the teacher's outputs were found to be, as text.
        outputs_kind: The same without numbers that differ between devices.
    """

    views: int
    seconds: float
    render_s: float
    bytes_per_label: float
    outputs: str = ""
    outputs_kind: str = ""

    @property
    def views_per_s(self) -> float:
        """Views a second of one worker, rendering and teacher together."""
        return self.views / max(self.seconds, 1e-9)

    @property
    def teacher_s_per_view(self) -> float:
        """Seconds that a live teacher adds to a step, per view."""
        return max(self.seconds - self.render_s, 0.0) / self.views


@dataclasses.dataclass(frozen=True)
class Trial:
    """Result of a worker's short measurement on some calibration views.

    Attributes:
        rate: Views and seconds; its bytes_per_label is 0, because calibration stores no labels.
        agreement: Agreement of the teacher with the true labels; None if no image has a true label.
    """

    rate: Rate
    agreement: Agreement | None
