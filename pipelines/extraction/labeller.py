"""What computes labels, for whoever asks: `extract` for units that are missing, `repair` for damaged ones."""

from __future__ import annotations

from collections.abc import Callable

from pipelines.flags.teacher import TeacherFlags
from teacher_cache.archive.layout import Unit
from teacher_cache.archive.source import LabelSource
from teacher_cache.archive.spec import ArchiveSpec
from teacher_cache.batches.pool import RenderPool
from teacher_cache.batches.renderer import BatchRenderer
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import ArchiveError
from teacher_cache.labelling.calibrate import calibrate
from teacher_cache.labelling.unit import extract_unit
from teacher_cache.labels.affinity_rule import AffinityRule, num_calibration_views
from teacher_cache.labels.arrays import LabelArrays
from teacher_cache.models.create import resolve_device
from teacher_cache.models.teacher import Teacher, build_teacher
from teacher_cache.views import recipe as recipes


class Job:
    """Images, a teacher, and what is asked of them.

    Args:
        spec: What is asked.
        teacher: Who labels views.
        pool: Renders views of the dataset under the spec's recipe.
        batch_size: Views in one forward pass.
    """

    def __init__(self, spec: ArchiveSpec, teacher: Teacher, pool: RenderPool, batch_size: int) -> None:
        self.spec, self.teacher, self.pool, self.batch_size = spec, teacher, pool, batch_size

    def label(self, unit: Unit, advance: Callable[[int], None]) -> LabelArrays:
        """Return a unit's labels; see `extract_unit`."""
        return extract_unit(
            unit,
            self.pool,
            self.teacher,
            k=self.spec.labels.k,
            values=self.spec.labels.values,
            batch_size=self.batch_size,
            advance=advance,
        )

    def keys_sha256(self, unit: Unit) -> str:
        """Return the digest of the keys of a unit's rows."""
        dataset = self.pool.renderer.dataset
        rows = dataset.rows_of(unit.shard)
        return dataset.index.keys_sha256(rows.start, rows.stop)

    @property
    def num_calibration_views(self) -> int:
        """How many views `affinity` looks at."""
        return num_calibration_views(self._rule, self.spec.labels.num_classes)

    def affinity(self, advance: Callable[[int], None]) -> LabelArrays:
        """Return the class affinity; see `calibrate`. The spec must ask for one."""
        return calibrate(self.pool, self.teacher, self._rule, batch_size=self.batch_size, advance=advance)

    @property
    def _rule(self) -> AffinityRule:
        assert self.spec.labels.affinity is not None
        return self.spec.labels.affinity


def job_of(archive: LabelSource, data: str, flags: TeacherFlags) -> Job:
    """Return the job that made an archive: its dataset, and its teacher with the very weights.

    Raises:
        ArchiveError: The dataset or the teacher is not the archive's.
        ModelError: See `build_teacher`.
    """
    dataset = PackedDataset(data, flags.room)
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
        classes=dataset.info.class_list,
        img_size=archive.recipe.img_size,
        device=resolve_device(flags.device),
        pretrained=flags.pretrained,
        checkpoint=flags.checkpoint,
        model_kwargs=theirs["model_kwargs"],
        precision=theirs["precision"],
        channels_last=flags.channels_last,
        compiled=flags.compile,
    )
    if teacher.spec.to_dict() != theirs:
        raise ArchiveError(
            f"the teacher's weights are {teacher.spec.weights_sha256[:12]}, "
            f"those of {archive.url} {theirs['weights_sha256'][:12]}",
            "Another teacher's labels would be compared or mixed with these.",
            "give the archive's own teacher with --checkpoint",
        )
    pool = RenderPool(BatchRenderer(dataset, recipes.from_dict(archive.spec.recipe)), flags.workers)
    return Job(archive.spec, teacher, pool, flags.batch_size)
