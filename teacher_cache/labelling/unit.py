"""Label one unit, from rows to labels, without depending on an engine, an archive or a command line."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from teacher_cache.archive.format.layout import Unit
from teacher_cache.archive.format.spec import LabelSpec
from teacher_cache.batches.batch import ViewBatch, view_batch
from teacher_cache.batches.pool import RenderPool
from teacher_cache.batches.rendered import Load, ViewIds
from teacher_cache.batches.renderer import BatchRenderer
from teacher_cache.batches.transfer import HostCopy, copies_in_flight, on_device
from teacher_cache.errors import TeacherCacheError
from teacher_cache.labels.arrays import LabelArrays, empty_labels
from teacher_cache.labels.codec import encode
from teacher_cache.labels.components import with_codes
from teacher_cache.labels.topk import Basis, CodedLabels, Labels, OneLabels, labels_from_logits
from teacher_cache.models.teacher import Teacher
from teacher_cache.views.mixing import ROWS_PER_RING, VIEWS_PER_RING, Mixing

Kind: TypeAlias = type[Labels] | type[CodedLabels]


def unit_loads(
    rows: range, views: Sequence[int], batch_size: int, mixing: Mixing | None
) -> list[list[ViewIds]]:
    """Return batches that cover every view of some rows once, in loads: lists of batches that share images.

    Without mixing, a load has all views of a few rows. With mixing, it has a few rings of rows in all views
    that share the rings, view by view, with partners side by side, so that mixed views are rendered together.
    """
    loads = []
    if mixing is None:
        step = max(1, batch_size // len(views))
        for start in range(rows.start, rows.stop, step):
            some = np.arange(start, min(start + step, rows.stop))
            loads.append(_batches(np.repeat(some, len(views)), np.tile(views, len(some)), batch_size))
        return loads
    for _, group in itertools.groupby(views, lambda view: view // VIEWS_PER_RING):
        together = list(group)
        rings = mixing.rings(rows, together[0])
        step = max(1, batch_size // (ROWS_PER_RING * len(together)))
        for number in range(0, len(rings), step):
            some = np.concatenate(rings[number : number + step])
            in_pairs = [_side_by_side(some, mixing.partners(some, view)) for view in together]
            loads.append(_batches(np.concatenate(in_pairs), np.repeat(together, len(some)), batch_size))
    return loads


def _side_by_side(rows_N: npt.NDArray[np.int64], partners_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return rows_N[np.argsort(np.minimum(rows_N, partners_N), kind="stable")]


def _batches(rows_N: npt.NDArray[np.int64], views_N: npt.NDArray[np.int64], batch_size: int) -> list[ViewIds]:
    stops = range(batch_size, len(rows_N), batch_size)
    parts = zip(np.split(rows_N, stops), np.split(views_N, stops), strict=True)
    return [ViewIds(*part) for part in parts]


def extract_unit(
    unit: Unit,
    pool: RenderPool[BatchRenderer],
    teacher: Teacher,
    *,
    labels: LabelSpec,
    basis: Basis | None,
    batch_size: int,
    advance: Callable[[int], None],
) -> LabelArrays:
    """Label all views of a unit.

    The batches depend only on the arguments, so the same device gives the same bytes each time. On CUDA only
    the k values of a label are copied to the host, while the next batch is computed.

    Args:
        labels: Meaning of the stored numbers.
        basis: Basis of the labels' codes, on the teacher's device; None for labels without codes.

    Returns:
        Labels of the unit: see LabelArrays, with (rows, views) in place of the dots.

    Raises:
        DatasetError: An image is not the one that was packed.
        ImageError: An image cannot be decoded.
        TeacherCacheError: The teacher's output is not finite.
    """
    rows = pool.renderer.dataset.rows_of(unit.shard)
    num_classes, values = labels.num_classes, labels.values
    shape = (len(rows), len(unit.views))
    labelled = empty_labels(shape, labels.k, num_classes, values, labels.num_codes)
    under_way: deque[tuple[ViewBatch, Kind, HostCopy]] = deque()

    def store(batch: ViewBatch, kind: Kind, copy: HostCopy) -> None:
        part = encode(kind(*copy.wait()), num_classes, values)
        where = (batch.rows_B.numpy() - rows.start, batch.views_B.numpy() - unit.first_view)
        for whole, array in zip(labelled, part, strict=True):
            whole[where] = array
        advance(len(batch.rows_B))

    loads = unit_loads(rows, unit.views, batch_size, pool.renderer.mixing)
    for batch, logits_BC in teacher_logits(pool, teacher, loads, what=f"unit {unit.name}"):
        found = label_with_codes(logits_BC, labels, basis)
        under_way.append((batch, type(found), HostCopy(found)))
        while len(under_way) > copies_in_flight(teacher.device):
            store(*under_way.popleft())
    for rest in under_way:
        store(*rest)
    return labelled


def label_with_codes(logits_BC: torch.Tensor, labels: LabelSpec, basis: Basis | None) -> OneLabels:
    """Return the labels of B views, with codes where there is a basis, on the device of the logits."""
    found = labels_from_logits(logits_BC, labels.k)
    if basis is None or labels.components is None:
        return found
    return with_codes(found, logits_BC, basis, labels.components)


def teacher_logits(
    pool: RenderPool[BatchRenderer], teacher: Teacher, loads: Sequence[Load], *, what: str
) -> Iterator[tuple[ViewBatch, torch.Tensor]]:
    """Yield each batch with the teacher's logits of its views, (B, C) on the teacher's device.

    On CUDA this waits for the device only to check an earlier batch: logits that are not finite raise an
    error one batch later, and at the latest when the iteration ends.

    Args:
        loads: Batches of views, in loads that share their images.
        what: Description of the views for the error.

    Raises:
        DatasetError: An image is not the one that was packed.
        ImageError: An image cannot be decoded.
        TeacherCacheError: The teacher's output is not finite.
    """
    is_cuda = teacher.device.type == "cuda"
    batches = (view_batch(rendered, pin_memory=is_cuda) for rendered in pool.render(loads))
    unseen: deque[HostCopy] = deque()
    for batch in on_device(batches, teacher.device):
        logits_BC = teacher.logits(batch.pixels(teacher.device))
        unseen.append(HostCopy([torch.isfinite(logits_BC).all()]))
        while len(unseen) > copies_in_flight(teacher.device):
            _check_finite(unseen.popleft(), what)
        yield batch, logits_BC
    for rest in unseen:
        _check_finite(rest, what)


def _check_finite(is_finite: HostCopy, what: str) -> None:
    if not is_finite.wait()[0]:
        raise TeacherCacheError(
            f"the teacher's logits of {what} are not all finite",
            "Labels made of them would be wrong, but look valid.",
            "check the teacher's weights, or choose --precision float32",
        )
