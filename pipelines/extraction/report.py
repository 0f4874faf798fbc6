"""Reports of an extraction and of its plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from pipelines.extraction.estimate import Estimate
from pipelines.extraction.take import Taken
from teacher_cache.labels.agreement import Agreement


@dataclasses.dataclass(frozen=True)
class ExtractReport:
    """Report of a run, and the content of the archive after it.

    Attributes:
        units, views: Units that this run computed, and their views of single images.
        seconds: Seconds spent on these units.
        labels: Labels in the archive.
        label_bytes: Bytes of all label objects.
        fingerprint: Fingerprint of the archive.
        quarantined: Reason of each unit that was given up; any such unit leaves the archive unfinished.
        run: URL of the run's record; None if there was nothing to do.
        calibration_views: Views that this run calibrated on.
        agreement: Agreement of the teacher with the true labels; None where it was not measured.
        taken: Units and bytes that were taken from archives in catalogs, by their URLs.
    """

    units: int
    views: int
    seconds: float
    labels: int
    label_bytes: int
    fingerprint: str
    quarantined: dict[str, str]
    run: str | None
    calibration_views: int
    agreement: Agreement | None
    taken: Mapping[str, Taken] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Work that an extract would do.

    Attributes:
        estimate: Cost of the units to compute; None if there are none.
        taken: Units and bytes that it would take from archives in catalogs, by their URLs.
    """

    estimate: Estimate | None
    taken: Mapping[str, Taken]
