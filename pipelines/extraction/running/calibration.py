"""Calibration of an archive before its first unit: parts run like units, then the result is written."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

from pipelines.extraction.engines.engine import ENDS_THE_RUN, Advance, Worker, first_line
from pipelines.extraction.planning.prepare import Extraction, Prepared
from pipelines.extraction.queue import UnitQueue
from pipelines.extraction.running.record import RunRecord
from teacher_cache.archive.format.calibration import get_agreement
from teacher_cache.errors import ModelError
from teacher_cache.labels.affinity_rule import CalibrationPart
from teacher_cache.labels.agreement import Agreement
from teacher_cache.program.progress import Track


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Result of a calibration.

    Attributes:
        agreement: Agreement of the teacher with the true labels; None if unlabelled, or if a part failed.
        given_up: Reason for each failed part, by name; the next run tries again. Units depend on it only
            where their codes need a basis.
    """

    agreement: Agreement | None
    given_up: dict[str, str]


def calibrate(extraction: Extraction, prepared: Prepared, record: RunRecord, track: Track) -> Calibration:
    """Run the missing parts of the calibration on all workers, and write their result.

    Raises:
        TeacherCacheError: One of ENDS_THE_RUN. Finished parts stay.
    """
    if not prepared.calibration:
        return Calibration(get_agreement(prepared.writer.store, prepared.writer.spec), {})
    request, engine, missing = extraction.request, extraction.engine, prepared.missing_calibration
    queue = UnitQueue(missing, retries=request.retries, max_quarantined=request.max_quarantined)
    with track("calibrate", sum(part.stop - part.start for part in missing), "views") as advance:
        for event in engine.run(queue, lambda views: advance(views)):
            record.add(event)
            record.check_limit(queue, engine.num_workers)
    given_up = {part.name: reason for part, reason in queue.quarantined.items()}
    if given_up or record.is_over_limit:
        return Calibration(None, given_up)
    try:
        agreement = engine.ask(functools.partial(_freeze, prepared.calibration))
    except ENDS_THE_RUN:
        raise
    except Exception as error:
        return Calibration(None, {"calibration": first_line(error)})
    return Calibration(agreement, {})


def check_agreement(extraction: Extraction, agreement: Agreement | None) -> None:
    """Raise ModelError if the teacher's top classes do not match the dataset's true labels.

    A teacher is not checked if its weights name the dataset's own classes, if its weights are random because
    of --no-pretrained, or if --allow-disagreement is given.

    Raises:
        ModelError: The agreement is near chance, or fits another order of the classes.
    """
    request, is_known = extraction.request, extraction.worker.classes_are_known
    if agreement is None or is_known or request.order.teacher.is_random or request.allow_disagreement:
        return
    if agreement.verdict in ("fits", "too few views"):
        return
    classes, example = request.dataset.info.classes, ""
    if agreement.example is not None and classes:
        label, top = agreement.example
        example = f" Images of class {classes[label]!r} are mostly {classes[top]!r} to it."
    raise ModelError(
        str(agreement),
        f"Its classes may be ordered unlike the dataset's, so its labels may be wrong.{example}",
        "pack the dataset in the teacher's order of classes (pack --classes FILE), and choose a new --out; "
        "or go on with --allow-disagreement",
    )


def _freeze(parts: Sequence[CalibrationPart], worker: Worker, _: Advance) -> Agreement | None:
    return worker.freeze_calibration(parts)
