"""Students that learn a teacher's function from soft labels alone, by what the labels keep.

    teacher-cache pack train.parquet TRAIN --classes classes.txt
    python -m benchmarks.experiments.soft_students --data TRAIN --held-out VAL \\
        --teacher tf_efficientnet_lite0 --checkpoint lite0.pth --json soft-students.json

classes.txt has the teacher's classes in its order, under the names that the dataset has for its own.
The teacher labels each crop once, and a student sees the same crop at fewer pixels. Every kind of label is
written and read as in an archive. Students of one seed begin with the same weights and see the same batches.
On views of other pictures: how often the student's first class is the teacher's, and KL(teacher, student).

Shapes: N views, B views of a batch, C classes.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import timm
import torch
import torch.nn.functional as F  # noqa: N812  # as torch's own documentation names it
from msgspec import Meta
from rich.console import Console
from rich.table import Table

from benchmarks.component_study import tempered_kl
from benchmarks.label_study import affinity_of
from benchmarks.machine import write_result
from teacher_cache.batches.pool import RenderPool
from teacher_cache.batches.renderer import BatchRenderer
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.labelling.unit import teacher_logits, unit_loads
from teacher_cache.labels.affinity_rule import ENTRIES, component_rule
from teacher_cache.labels.codec import decode, decode_basis, encode
from teacher_cache.labels.components import centred, fitted_basis, with_codes
from teacher_cache.labels.losses import soft_loss
from teacher_cache.labels.tail_rules import Tail
from teacher_cache.labels.topk import OneAffinity, OneLabels, labels_from_logits
from teacher_cache.models.kinds import TeacherSettings
from teacher_cache.models.teacher import build_teacher
from teacher_cache.program.commandline import Command, run_single
from teacher_cache.program.flags import Flags
from teacher_cache.program.progress import console
from teacher_cache.views.recipe import load_recipe

_BATCH = 128


class Kind(NamedTuple):
    """Kind of label: the classes kept, the codes beside them, and whether tails follow the class affinity."""

    k: int | None
    codes: int = 0
    has_affinity: bool = False


KINDS = {
    "all classes": Kind(None),
    "k = 10, 64 codes": Kind(10, 64),
    "k = 5, 32 codes": Kind(5, 32),
    "k = 10, class affinity": Kind(10, has_affinity=True),
    "k = 10, even tail": Kind(10),
}


class Views(NamedTuple):
    """Crops as the student sees them, uint8, and the teacher's logits."""

    pixels_NCHW: torch.Tensor
    logits_NC: torch.Tensor


@dataclasses.dataclass(frozen=True, kw_only=True)
class SoftStudentsConfig(Flags):
    """Train students on the soft labels of a teacher, by kind of label, temperature and seed."""

    data: str
    """Packed dataset whose views are learned."""
    held_out: str
    """Packed dataset of other pictures, whose views are looked at in the end."""
    teacher: str
    """Name of a timm model."""
    checkpoint: str
    """File of the teacher's weights."""
    model: str = "resnet10t"
    """Student, a timm model."""
    rows: Annotated[int, Meta(ge=1)] = 2_700
    """Pictures that are learned, the first of the dataset."""
    views: Annotated[int, Meta(ge=1)] = 2
    """Crops of each picture that are learned."""
    held_out_rows: Annotated[int, Meta(ge=1)] = 1_500
    """Pictures that are looked at in the end, in one crop each."""
    teacher_px: Annotated[int, Meta(ge=1)] = 128
    """Side of a crop that the teacher sees."""
    student_px: Annotated[int, Meta(ge=1)] = 32
    """Side of a crop that the student sees."""
    passes: Annotated[int, Meta(ge=1)] = 4
    """Passes over all crops."""
    lr: float = 2e-3
    """Peak learning rate of AdamW, with one cycle."""
    seeds: Annotated[int, Meta(ge=1)] = 3
    """Students of each kind of label and temperature."""
    temperatures: tuple[float, ...] = (1.0, 3.0)
    """Temperatures of the loss."""
    parallel: Annotated[int, Meta(ge=1)] = 2
    """Students at a time, of one thread each."""
    json: str | None = None
    """File for the result."""


def labels_of(kind: Kind, logits_NC: torch.Tensor, seen_NC: torch.Tensor) -> tuple[OneLabels, OneAffinity]:
    """Return labels as they are read from an archive, and what spreads their tails.

    Args:
        logits_NC: The teacher's logits of the views to label.
        seen_NC: Its logits of the views to calibrate on.
    """
    num_classes = logits_NC.shape[1]
    top = labels_from_logits(logits_NC, kind.k or num_classes)
    shared: OneAffinity = affinity_of(seen_NC, ENTRIES) if kind.has_affinity else None
    if kind.k is None:
        return top, shared
    found: OneLabels = top
    if kind.codes:
        rule = component_rule(kind.codes, num_classes, len(seen_NC))
        shared = decode_basis(fitted_basis(centred(seen_NC).half().numpy(), rule), kind.codes)
        found = with_codes(top, logits_NC, shared, rule)
    return decode(encode(found, num_classes, "q8"), num_classes, "q8"), shared


def trained_student(
    config: SoftStudentsConfig, folder: str, kind: str, temperature: float, seed: int
) -> dict[str, float]:
    """Train one student on the views in a folder; return its figures on the views held out."""
    torch.set_num_threads(1)
    views, held_out, labels, shared = (
        torch.load(Path(folder, name), weights_only=False, mmap=True)
        for name in ("views", "held out", kind, f"{kind}, shared")
    )
    tail: Tail = "uniform" if shared is None else "affinity"
    torch.manual_seed(seed)
    model = timm.create_model(config.model, num_classes=views.logits_NC.shape[1])
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, weight_decay=0.05)
    steps = config.passes * (len(views.logits_NC) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=steps)
    for _ in range(config.passes):
        for chosen_B in torch.randperm(len(views.logits_NC)).split(_BATCH):
            if len(chosen_B) < _BATCH:
                continue
            some = type(labels)(*(tensor[chosen_B] for tensor in labels))
            logits_BC = model(_input(views.pixels_NCHW[chosen_B]))
            loss = soft_loss(logits_BC, some, temperature=temperature, tail=tail, affinity=shared)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    with torch.inference_mode():
        parts = [model(_input(part)) for part in held_out.pixels_NCHW.split(_BATCH)]
    return _figures(held_out.logits_NC, torch.cat(parts))


def _figures(teacher_NC: torch.Tensor, student_NC: torch.Tensor) -> dict[str, float]:
    agrees_N = teacher_NC.argmax(1) == student_NC.argmax(1)
    losses = {f"KL at {tau}": tempered_kl(teacher_NC, student_NC, tau) for tau in (1, 3)}
    return {"agreement": agrees_N.float().mean().item(), **losses}


def _input(pixels_BCHW: torch.Tensor) -> torch.Tensor:
    return (pixels_BCHW.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def _views(config: SoftStudentsConfig, url: str, num_rows: int, num_views: int) -> Views:
    """Return crops of the first pictures of a dataset, in the order of rows and views."""
    dataset = PackedDataset(url)
    settings = TeacherSettings(name=config.teacher, checkpoint=config.checkpoint)
    teacher = build_teacher(settings, classes=dataset.info.class_list, img_size=config.teacher_px)
    pool = RenderPool(BatchRenderer(dataset, load_recipe("rrc", config.teacher_px)), 0)
    rows = range(min(num_rows, len(dataset.index.labels_N)))
    shape = (len(rows), num_views)
    pixels = torch.empty(*shape, 3, config.student_px, config.student_px, dtype=torch.uint8)
    logits = torch.empty(*shape, teacher.spec.num_classes)
    loads = unit_loads(rows, range(num_views), _BATCH, None)
    with console("views", len(rows) * num_views, "views") as advance:
        for batch, logits_BC in teacher_logits(pool, teacher, loads, what="the experiment"):
            small = F.interpolate(batch.images_RCHW.float(), config.student_px, mode="area")
            pixels[batch.rows_B, batch.views_B] = small.round().byte()
            logits[batch.rows_B, batch.views_B] = logits_BC
            advance(len(logits_BC))
    return Views(pixels.flatten(0, 1), logits.flatten(0, 1))


def run_experiment(config: SoftStudentsConfig) -> dict[str, Any]:
    """Train all students; return their figures by temperature and kind of label, a list by seed."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        views = _views(config, config.data, config.rows, config.views)
        torch.save(views, Path(folder, "views"))
        held_out = _views(config, config.held_out, config.held_out_rows, 1)
        torch.save(held_out, Path(folder, "held out"))
        seen_NC = views.logits_NC[:: config.views]  # view 0 of each picture
        for name, kind in KINDS.items():
            for part, file in zip(labels_of(kind, views.logits_NC, seen_NC), ("", ", shared"), strict=True):
                torch.save(part, Path(folder, f"{name}{file}"))
        context = multiprocessing.get_context("forkserver")
        arms = [
            (seed, tau, name) for seed in range(config.seeds) for tau in config.temperatures for name in KINDS
        ]
        with (
            concurrent.futures.ProcessPoolExecutor(config.parallel, mp_context=context) as executor,
            console("students", len(arms), "students") as advance,
        ):
            futures = [
                executor.submit(trained_student, config, folder, name, tau, seed) for seed, tau, name in arms
            ]
            for (_, tau, name), future in zip(arms, futures, strict=True):
                found.setdefault(f"{tau:g}", {}).setdefault(name, []).append(future.result())
                advance(1)
    return {"students": found}


def _experiment(config: SoftStudentsConfig) -> int:
    found = run_experiment(config)
    title = "Students of a teacher's function on views held out: mean and standard deviation"
    table = Table("temperature", "labels", "agreement, %", "KL at 1", "KL at 3", title=title)
    for tau, by_kind in found["students"].items():
        for kind, rows in by_kind.items():
            table.add_row(tau, kind, *(_cell(rows, name) for name in ("agreement", "KL at 1", "KL at 3")))
    Console(width=100).print(table)
    write_result(config.json, "soft students", config, found, ("torch", "timm", "numpy"))
    return 0


def _cell(rows: list[Mapping[str, float]], name: str) -> str:
    factor, digits = (100, 1) if name == "agreement" else (1, 3)
    values = [factor * row[name] for row in rows]
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


if __name__ == "__main__":
    sys.exit(
        run_single(
            "python -m benchmarks.experiments.soft_students",
            Command(SoftStudentsConfig, _experiment),
            sys.argv[1:],
        )
    )
