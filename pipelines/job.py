"""What computes labels, for whoever asks: `extract` for units that are missing, `repair` for damaged ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

from teacher_cache.archive.layout import Unit
from teacher_cache.archive.source import LabelSource
from teacher_cache.archive.spec import ArchiveSpec
from teacher_cache.calibrate import calibrate, num_calibration_views
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import ArchiveError
from teacher_cache.extract import extract_unit
from teacher_cache.labels.codec import LabelArrays
from teacher_cache.models import resolve_device
from teacher_cache.progress import Track
from teacher_cache.teacher import Teacher, build_teacher
from teacher_cache.views import recipe as recipes


@dataclasses.dataclass(frozen=True)
class Job:
    """Images, a teacher, and what is asked of them.

    Attributes:
        spec: What is asked.
        dataset: The images.
        teacher: Who labels them.
        batch_size: Views in one forward pass.
        workers: Processes that render; 0 renders in this one.
    """

    spec: ArchiveSpec
    dataset: PackedDataset
    teacher: Teacher
    batch_size: int
    workers: int

    def label(self, unit: Unit, advance: Callable[[int], None]) -> LabelArrays:
        """Return a unit's labels; see `extract_unit`."""
        return extract_unit(
            unit,
            self.dataset,
            recipes.from_dict(self.spec.recipe),
            self.teacher,
            k=self.spec.labels.k,
            values=self.spec.labels.values,
            batch_size=self.batch_size,
            workers=self.workers,
            advance=advance,
        )

    def keys_sha256(self, unit: Unit) -> str:
        """Return the digest of the keys of a unit's rows."""
        rows = self.dataset.rows_of(unit.shard)
        return self.dataset.index.keys_sha256(rows.start, rows.stop)

    def affinity(self, track: Track) -> LabelArrays:
        """Return the class affinity; see `calibrate`. The spec must ask for one."""
        rule = self.spec.labels.affinity
        assert rule is not None
        num_views = num_calibration_views(rule, self.spec.labels.num_classes)
        with track("calibrate", num_views, "views") as advance:
            return calibrate(
                self.dataset,
                recipes.from_dict(self.spec.recipe),
                self.teacher,
                rule,
                batch_size=self.batch_size,
                workers=self.workers,
                advance=advance,
            )


class TeacherFlags(Protocol):
    """The flags that say where an archive's own teacher is to be had, and how it runs."""

    @property
    def checkpoint(self) -> str | None: ...  # noqa: D102
    @property
    def pretrained(self) -> bool: ...  # noqa: D102
    @property
    def device(self) -> str: ...  # noqa: D102
    @property
    def batch_size(self) -> int: ...  # noqa: D102
    @property
    def workers(self) -> int: ...  # noqa: D102


def job_of(archive: LabelSource, data: str, flags: TeacherFlags) -> Job:
    """Return the job that made an archive: its dataset, and its teacher with the very weights.

    Raises:
        ArchiveError: The dataset or the teacher is not the archive's.
        ModelError: See `build_teacher`.
    """
    dataset = PackedDataset(data)
    archive.check_replay(dataset.info)
    theirs = archive.spec.teacher
    odd = [name for name in theirs["model_kwargs"] if name.startswith(("pretrained", "checkpoint", "cache"))]
    if odd or ":" in theirs["model"]:
        raise ArchiveError(
            f"{archive.url} names the teacher {theirs['model']!r} with {', '.join(odd) or 'no files'}",
            "An archive may name a model of timm's, not where to load files from.",
            "extract again with a timm name and --checkpoint",
        )
    teacher = build_teacher(
        theirs["model"],
        num_classes=len(dataset.info.classes),
        classes_sha256=dataset.info.classes_sha256,
        img_size=archive.recipe.img_size,
        device=resolve_device(flags.device),
        pretrained=flags.pretrained,
        checkpoint=flags.checkpoint,
        model_kwargs=theirs["model_kwargs"],
        precision=theirs["precision"],
    )
    if teacher.spec.to_dict() != theirs:
        raise ArchiveError(
            f"the teacher's weights are {teacher.spec.weights_sha256[:12]}, "
            f"those of {archive.url} {theirs['weights_sha256'][:12]}",
            "Another teacher's labels would be compared or mixed with these.",
            "give the archive's own teacher with --checkpoint",
        )
    return Job(archive.spec, dataset, teacher, flags.batch_size, flags.workers)
