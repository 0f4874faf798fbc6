"""Labels compared with those of TinyViT, FKD and ml-dr: bytes, loss of information, and speed of reading.

    python -m benchmarks.labels --data PACKED --teacher MODEL --checkpoint FILE [--study]

A teacher's logits of views of a packed dataset are computed once. For each k every format writes the labels
of all of them, as its own writer does, and reads them again. Bytes per label count all files of a format,
with keys. The KL is from the teacher's whole softmax to the probabilities read from a label, over the views
that the class affinity was not calibrated on. Reading is timed on one core: ours by views of shards, as the
stream reads; the peers' by labels in a random order, as their loaders do.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from msgspec import Meta
from rich.console import Console
from rich.table import Table

from benchmarks.common import write_json
from benchmarks.component_study import component_study
from benchmarks.label_peers import PEERS, Peer
from benchmarks.label_study import figure, kl, study
from benchmarks.machine import environment
from pipelines.extraction.flags import ExtractConfig
from pipelines.extraction.messages import Description
from pipelines.extraction.planning.prepare import archive_spec
from pipelines.extraction.request import request_of
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.archive.writers.write import ArchiveWriter
from teacher_cache.batches.pool import RenderPool
from teacher_cache.batches.renderer import BatchRenderer
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.labelling.unit import teacher_logits, unit_loads
from teacher_cache.labels.affinity import affinity_rows, probabilities_of
from teacher_cache.labels.affinity_rule import calibration_rows_views, num_calibration_views
from teacher_cache.labels.codec import encode
from teacher_cache.labels.tails import dense_probabilities
from teacher_cache.labels.topk import Labels, labels_from_logits
from teacher_cache.models.kinds import TeacherSettings
from teacher_cache.models.teacher import Teacher, build_teacher
from teacher_cache.program.commandline import Command, run_single
from teacher_cache.program.flags import Flags
from teacher_cache.program.progress import console
from teacher_cache.storage.store import Store
from teacher_cache.views.probe import library_versions, probe_digest
from teacher_cache.views.recipe import load_recipe

_BATCH = 256
_SPEED_K = 5


@dataclasses.dataclass(frozen=True)
class LabelsConfig(Flags):
    """Compare stored labels with those of TinyViT, FKD and ml-dr, over the same logits."""

    data: str
    """Packed dataset to label."""
    teacher: str
    """Name of a timm model."""
    checkpoint: str
    """File of the teacher's weights."""
    recipe: str = "rrc"
    """Name of a recipe, or a YAML file."""
    img_size: int = 56
    """Side of a view in pixels."""
    views: Annotated[int, Meta(ge=2)] = 32
    """Views of each sample."""
    rows: Annotated[int, Meta(ge=1)] = 4000
    """Samples to label, from the first shard."""
    topk: tuple[int, ...] = (3, 5, 10, 20, 50, 100)
    """Numbers of classes to keep, each in turn."""
    repeats: Annotated[int, Meta(ge=1)] = 5
    """Timed readings of each format."""
    workers: int = 1
    """Processes that render views."""
    study: bool = False
    """Also compare alternative choices for the format."""
    calibration: str | None = None
    """With --study: packed dataset whose views components are calibrated on; by default half of the rows."""
    calibration_views: Annotated[int, Meta(ge=1)] = 16
    """Views of each of its samples."""
    figure: str | None = None
    """PNG file for a figure of bytes against KL."""
    json: str | None = None
    """File for the result."""


def _logits(config: LabelsConfig, dataset: PackedDataset, teacher: Teacher, num_views: int) -> torch.Tensor:
    """Return the teacher's logits (rows, views, classes)."""
    pool = RenderPool(BatchRenderer(dataset, load_recipe(config.recipe, config.img_size)), config.workers)
    rows = range(min(config.rows, len(dataset.rows_of(0))))
    found_RVC = torch.empty(len(rows), num_views, teacher.spec.num_classes)
    loads = unit_loads(rows, range(num_views), _BATCH, pool.renderer.mixing)
    with console("logits", len(rows) * num_views, "views") as advance:
        for batch, logits_BC in teacher_logits(pool, teacher, loads, what="the benchmark"):
            found_RVC[batch.rows_B, batch.views_B] = logits_BC.cpu()
            advance(len(batch.rows_B))
    return found_RVC


def _write_ours(
    config: LabelsConfig, dataset: PackedDataset, teacher: Teacher, logits_RVC: torch.Tensor, k: int, url: str
) -> int:
    """Write an archive of the logits; return the first view the affinity was not calibrated on."""
    recipe = load_recipe(config.recipe, config.img_size)
    worker = Description(teacher.spec.to_dict(), probe_digest(recipe), library_versions(), "cpu")
    flags = ExtractConfig(
        data=dataset.url,
        teacher="",
        out=url,
        recipe=config.recipe,
        img_size=config.img_size,
        topk=k,
        views=f"0:{config.views}",
        views_per_unit=config.views,
    )
    spec = archive_spec(request_of(flags), worker)
    num_rows, _, num_classes = logits_RVC.shape
    # the archive's dataset is just the rows that are labelled
    spec = dataclasses.replace(
        spec, dataset={**spec.dataset, "shards": [(dataset.info.shards[0].sha256, num_rows)]}
    )
    writer = ArchiveWriter.open(Store(url), spec)
    rule = spec.labels.affinity
    assert rule is not None
    num_views = num_calibration_views(rule, num_classes, num_rows)
    rows_N, views_N = calibration_rows_views(num_rows, num_views)
    rows = affinity_rows(probabilities_of(logits_RVC[rows_N, views_N]), num_classes, rule["entries"])
    writer.freeze_shared(encode(rows, num_classes, "q8"))
    (unit,) = spec.layout.units(0, config.views)
    arrays = encode(labels_from_logits(logits_RVC.flatten(0, 1), k), num_classes, "q8")
    shaped = type(arrays)(*(part.reshape(num_rows, config.views, *part.shape[1:]) for part in arrays))
    writer.commit(unit, shaped, dataset.index.keys_sha256(0, num_rows))
    writer.finish()
    return int(views_N.max()) + 1


def _folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _smeared(class_ids_BK: torch.Tensor, shares_BK: torch.Tensor, num_classes: int) -> torch.Tensor:
    rest_B = (1 - shares_BK.sum(1)).clamp_min(0) / (num_classes - class_ids_BK.shape[1])
    return rest_B[:, None].repeat(1, num_classes).scatter(1, class_ids_BK, shares_BK)


def _rate(read: Callable[[], int], repeats: int) -> list[float]:
    """Return the labels read per second in each repeat, on one core."""
    cores = os.sched_getaffinity(0)
    threads = torch.get_num_threads()
    os.sched_setaffinity(0, {min(cores)})
    torch.set_num_threads(1)
    rates = []
    try:
        read()  # warm-up: every object is hashed and in the page cache
        for _ in range(repeats):
            start_s = time.perf_counter()
            count = read()
            rates.append(count / (time.perf_counter() - start_s))
    finally:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)
    return rates


def _measure_ours(
    config: LabelsConfig, url: str, first_view: int, logits_RVC: torch.Tensor
) -> dict[str, Any]:
    reader = ArchiveReader(url)
    num_rows, num_views, num_classes = logits_RVC.shape
    found: dict[str, Any] = {"bytes": _folder_bytes(Path(url)) / (num_rows * num_views)}
    for name, affinity in (("affinity", reader.affinity), ("uniform", None)):
        of_views = [
            kl(logits_RVC[:, view], dense_probabilities(reader.labels(0, view), num_classes, affinity))
            for view in range(first_view, num_views)
        ]
        found[f"kl_{name}"] = statistics.fmean(of_views)

    def read() -> int:
        return sum(len(reader.labels(0, view).tail_B) for view in range(num_views))

    if reader.spec.labels.k == _SPEED_K:
        found["labels_per_s"] = _rate(read, config.repeats)
    return found


def _measure_peer(
    config: LabelsConfig, peer: Peer, labels: Labels, first_view: int, logits_RVC: torch.Tensor
) -> dict[str, Any]:
    num_rows, num_views, num_classes = logits_RVC.shape
    shares_BK = labels.probabilities()
    shape = (num_rows, num_views, -1)
    peer.write(labels.class_ids_BK.reshape(shape).numpy().astype(np.int64), shares_BK.reshape(shape).numpy())
    found: dict[str, Any] = {"bytes": peer.num_bytes() / (num_rows * num_views)}
    of_views = []
    for view in range(first_view, min(first_view + 2, num_views)):
        records = [peer.read(row, view) for row in range(num_rows)]
        ids_BK, read_BK = (np.stack(part) for part in zip(*records, strict=True))
        dense = _smeared(
            torch.from_numpy(ids_BK.astype(np.int64)),
            torch.from_numpy(read_BK.astype(np.float32)),
            num_classes,
        )
        of_views.append(kl(logits_RVC[:, view], dense))
    found["kl"] = statistics.fmean(of_views)
    order = np.random.default_rng(0).permutation(num_rows)[:2000].tolist()

    def read() -> int:
        return sum(1 for row in order if peer.read(row, first_view) is not None)

    if peer.k == _SPEED_K:
        found["labels_per_s"] = _rate(read, config.repeats)
    return found


def _run(config: LabelsConfig) -> int:
    dataset = PackedDataset(config.data)
    settings = TeacherSettings(name=config.teacher, checkpoint=config.checkpoint)
    teacher = build_teacher(settings, classes=dataset.info.class_list, img_size=config.img_size)
    logits_RVC = _logits(config, dataset, teacher, config.views)
    keys = [dataset.index.key(row) for row in range(len(logits_RVC))]
    some_RVC, truth_R = logits_RVC[:, ::8], torch.tensor(dataset.index.labels_N[: len(keys)])
    top1 = float((some_RVC.argmax(2) == truth_R[:, None]).float().mean())
    confidence = float(some_RVC.softmax(2).amax(2).mean())
    print(f"teacher: {top1:.1%} top-1 on these views, mean largest probability {confidence:.3f}")
    by_k: dict[int, dict[str, dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for k in config.topk:
            url = f"{folder}/ours-{k}"
            first_view = _write_ours(config, dataset, teacher, logits_RVC, k, url)
            formats = {"ours": _measure_ours(config, url, first_view, logits_RVC)}
            labels = labels_from_logits(logits_RVC.flatten(0, 1), k)
            for kind in PEERS:
                peer = kind(Path(folder, f"{kind.name}-{k}"), keys, k)
                formats[kind.name] = _measure_peer(config, peer, labels, first_view, logits_RVC)
            by_k[k] = formats
            _show(k, formats)
    result: dict[str, Any] = {
        "environment": environment(("torch", "timm", "zarr", "numcodecs")),
        "config": dataclasses.asdict(config),
        "teacher": {"top1": top1, "mean_top_probability": confidence, "views": logits_RVC.shape[:2]},
        "formats": by_k,
    }
    if config.study:
        if config.calibration is None:
            result["study"] = study(logits_RVC)
        half = len(logits_RVC) // 2
        seen_RVC, unseen_RVC = logits_RVC[:half], logits_RVC[half:]
        if config.calibration is not None:
            seen_RVC = _logits(config, PackedDataset(config.calibration), teacher, config.calibration_views)
            unseen_RVC = logits_RVC
        result["components"] = component_study(seen_RVC.flatten(0, 1), unseen_RVC)
    if config.figure is not None:
        figure(by_k, config.figure)
    write_json(config.json, result)
    return 0


def _show(k: int, formats: dict[str, dict[str, Any]]) -> None:
    ours = formats["ours"]
    table = Table(title=f"k = {k}")
    for column in ("format", "bytes a label", "ours over it", "KL", "ours over it", "labels/s/core"):
        table.add_column(column, justify="left" if column == "format" else "right")
    rates = f"{statistics.median(ours['labels_per_s']):,.0f}" if "labels_per_s" in ours else ""
    table.add_row("ours, affinity", f"{ours['bytes']:.2f}", "", f"{ours['kl_affinity']:.4f}", "", rates)
    uniform = ours["kl_affinity"] / ours["kl_uniform"]
    table.add_row(
        "ours, uniform", f"{ours['bytes']:.2f}", "", f"{ours['kl_uniform']:.4f}", f"{uniform:.3f}", ""
    )
    for name, peer in formats.items():
        if name != "ours":
            rates = f"{statistics.median(peer['labels_per_s']):,.0f}" if "labels_per_s" in peer else ""
            cells = (f"{peer['bytes']:.2f}", f"{ours['bytes'] / peer['bytes']:.3f}")
            table.add_row(name, *cells, f"{peer['kl']:.4f}", f"{ours['kl_affinity'] / peer['kl']:.3f}", rates)
    Console().print(table)


if __name__ == "__main__":
    sys.exit(run_single("benchmarks.labels", Command(LabelsConfig, _run), sys.argv[1:]))
