"""Cached labels compared with the live teacher on the same views, step by step.

    python -m benchmarks.parity --images cifar10/train.parquet --json benchmarks/results/parity.json

A teacher is trained for a few steps, its labels of all classes are stored as float32 and as eight bits, and
the same student is trained from each and from the teacher itself, with hard and with soft labels. Hard losses
must be equal bit for bit, soft ones of float32 values to 1e-6. Eight-bit labels must stay, at the same
weights, within the bound that benchmarks/parity_bound.py derives; the drift of a whole run is printed too.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.common import write_json, write_photographs
from benchmarks.machine import environment
from benchmarks.parity_bound import LARGEST_ERROR, soft_term_bound
from pipelines.extraction.flags import ExtractConfig
from pipelines.extraction.running.extract import extract
from student.build import build_trainer
from student.config import TrainConfig
from student.loop import LAST_FILE
from student.metrics import read_metrics
from student.model import as_heads
from student.prepare import prepare
from student.ranks import joined
from student.step import LiveTeacher
from student.train import train
from teacher_cache.dataset.packing.pack import PackOptions, pack
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.dataset.sources.open import open_source
from teacher_cache.dataset.sources.source import SourceOptions
from teacher_cache.labels.losses import soft_loss
from teacher_cache.labels.topk import Labels
from teacher_cache.models.kinds import TeacherSettings
from teacher_cache.models.teacher import build_teacher
from teacher_cache.program.commandline import Command, run_single
from teacher_cache.program.progress import console, silent
from teacher_cache.storage.store import Store
from teacher_cache.views.finish import normalize

TEACHER = "regnety_002"
VALUES: tuple[Literal["q8", "float32"], ...] = ("q8", "float32")
"""Formats of stored logits to compare."""
_SLACK = 1e-6
"""Relative tolerance, for sums in float32."""


@dataclasses.dataclass(frozen=True)
class ParityConfig:
    """Compare training from cached labels with training from the live teacher, step by step."""

    images: str | None = None
    """Images that `teacher-cache pack` takes; by default synthetic photographs of ten classes."""
    split: str | None = None
    """Split of the images."""
    recipe: str = "deit"
    """Recipe of the views."""
    img_size: int = 32
    """Side of a view in pixels."""
    steps: int = 200
    """Steps to compare."""
    teacher_steps: int = 300
    """Steps that the teacher is trained for first."""
    batch_size: int = 64
    """Views in a step."""
    views: int = 2
    """Views of each image."""
    tau: float = 3.0
    """Temperature of soft labels."""
    alpha: float = 0.5
    """Weight of the teacher's term."""
    json: str | None = None
    """File for the result."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two runs of the same views.

    Attributes:
        steps: Number of steps compared.
        equal: Number of steps whose losses are equal bit for bit.
        largest_gap: Largest relative difference of two losses.
    """

    steps: int
    equal: int
    largest_gap: float


def measure(config: ParityConfig, folder: Path) -> dict[str, dict[str, float]]:
    """Return the differences between the runs, by comparison.

    Args:
        config: Settings of the comparison.
        folder: Empty folder for all files.
    """
    _prepare(config, folder)
    losses = {}
    for kind in ("hard", "soft"):
        for labels in ("live", *VALUES):
            run = _student(config, folder, kind, labels)
            train(run, silent)
            losses[kind, labels] = [
                line["loss"] for line in read_metrics(Store(run.output)) if "loss" in line
            ]
    compared = {
        f"{kind}, {labels}": dataclasses.asdict(_compared(losses[kind, labels], losses[kind, "live"]))
        for kind in ("hard", "soft")
        for labels in VALUES
    }
    return {**compared, "soft, q8, at the same weights": _held_to_the_bound(config, folder)}


def _prepare(config: ParityConfig, folder: Path) -> None:
    """Pack the images, train the teacher, and extract its labels twice."""
    source = config.images
    if source is None:
        write_photographs(folder / "images", 640)
        source = str(folder / "images")
    chosen = open_source(source, SourceOptions(split=config.split))
    pack(chosen, Store(folder / "data"), PackOptions(shard_size=1000, workers=2), console)
    training = _student(config, folder, "hard", "live")
    train(
        dataclasses.replace(
            training,
            output=str(folder / "teacher"),
            model=TEACHER,
            model_kwargs=(),
            distillation="none",
            teacher=None,
            teacher_checkpoint=None,
            views=None,
            steps=config.teacher_steps,
            lr=2e-3,
        ),
        silent,
    )
    num_classes = len(PackedDataset(str(folder / "data")).info.classes)
    for values in VALUES:
        extract(
            ExtractConfig(
                data=str(folder / "data"),
                out=str(folder / values),
                teacher=TEACHER,
                checkpoint=str(folder / "teacher" / LAST_FILE),
                recipe=config.recipe,
                img_size=config.img_size,
                views=f"0:{config.views}",
                topk=num_classes,
                values=values,
                device="cpu",
            ),
            silent,
        )


def _student(config: ParityConfig, folder: Path, kind: str, labels: str) -> TrainConfig:
    is_live = labels == "live"
    return TrainConfig(
        data=str(folder / "data"),
        output=str(folder / "runs" / f"{kind}-{labels}"),
        model="deit_tiny_distilled_patch16_224",
        model_kwargs=("patch_size=8", "embed_dim=96", "depth=4", "num_heads=3"),
        distillation=kind,
        distillation_alpha=config.alpha,
        distillation_tau=config.tau,
        labels=() if is_live else (str(folder / labels),),
        teacher=TEACHER if is_live else None,
        teacher_checkpoint=str(folder / "teacher" / LAST_FILE) if is_live else None,
        recipe=config.recipe if is_live else None,
        img_size=config.img_size if is_live else None,
        views=f"0:{config.views}",
        steps=config.steps,
        batch_size=config.batch_size,
        lr=1e-3,
        device="cpu",
    )


def _compared(cached: list[float], live: list[float]) -> Comparison:
    pairs = list(zip(cached, live, strict=True))
    return Comparison(len(pairs), sum(a == b for a, b in pairs), max(abs(a - b) / abs(b) for a, b in pairs))


def _held_to_the_bound(config: ParityConfig, folder: Path) -> dict[str, float]:
    """Train from eight-bit labels, and at each step compare their soft term with the live teacher's.

    Returns:
        Figures: steps; within_bound, the steps within the bound; largest_share, the largest ratio of a
        gap to the bound; largest_gap, relative to the soft term; largest_error, of a stored logit in nats.
    """
    training = dataclasses.replace(
        _student(config, folder, "soft", "q8"), output=str(folder / "runs" / "held")
    )
    shares, gaps, errors = [], [], []
    with joined("cpu") as ranks:
        run = prepare(training, ranks)
        trainer = build_trainer(training, run.dataset.info, run.recipe.img_size, run.plan, ranks)
        live = LiveTeacher(
            build_teacher(
                TeacherSettings(name=TEACHER, device="cpu", checkpoint=str(folder / "teacher" / LAST_FILE)),
                classes=run.dataset.info.class_list,
                img_size=run.recipe.img_size,
            )
        )
        for batch in run.stream.loader(0):
            pixels_BCHW = batch.pixels("cpu")
            exact, stored = live(batch, pixels_BCHW), batch.labels
            assert isinstance(stored, Labels)
            assert torch.equal(exact.class_ids_BK, stored.class_ids_BK)
            errors.append((exact.relative_logits_BK - stored.relative_logits_BK).abs().max().item())
            with torch.no_grad():
                student_BC = as_heads(
                    trainer.model(normalize(pixels_BCHW, trainer.mean, trainer.std))
                ).taught_BC
            ours, theirs = (
                soft_loss(student_BC, labels, temperature=config.tau).item() for labels in (stored, exact)
            )
            teacher_BC = torch.empty_like(student_BC).scatter(
                1, exact.class_ids_BK.long(), exact.relative_logits_BK
            )
            bound = soft_term_bound(student_BC, teacher_BC, config.tau).mean().item()
            shares.append(abs(ours - theirs) / (bound + _SLACK * abs(theirs)))
            gaps.append(abs(ours - theirs) / abs(theirs))
            trainer.update([batch])
    return {
        "steps": len(shares),
        "within_bound": sum(share <= 1 for share in shares),
        "largest_share": max(shares),
        "largest_gap": max(gaps),
        "largest_error": max(errors),
    }


def is_parity(found: dict[str, dict[str, float]]) -> bool:
    """Return whether cached training equals live: hard to the bit, float32 to 1e-6, q8 within the bound."""
    hard = all(found[name]["equal"] == found[name]["steps"] for name in ("hard, q8", "hard, float32"))
    bounded = found["soft, q8, at the same weights"]
    is_within = (
        bounded["within_bound"] == bounded["steps"] and bounded["largest_error"] <= LARGEST_ERROR + 1e-5
    )
    return hard and found["soft, float32"]["largest_gap"] <= 1e-6 and is_within


def _benchmark(config: ParityConfig) -> int:
    """Run the benchmark, print its table, and return 0, or 1 if cached and live training differ."""
    with tempfile.TemporaryDirectory() as folder:
        found = measure(config, Path(folder))
    table = Table(title=f"cached against live, {config.steps} steps of {config.batch_size}")
    for header in ("labels", "losses equal", "largest gap, relative", "goal"):
        table.add_column(header, justify="left" if header in ("labels", "goal") else "right")
    goals = {"hard": "equal", "soft, float32": "1e-6", "soft, q8": "none: whole runs drift apart"}
    for name, value in found.items():
        if "equal" in value:
            goal = next(text for start, text in goals.items() if name.startswith(start))
            equal = f"{value['equal']:.0f} of {value['steps']:.0f}"
            table.add_row(name, equal, f"{value['largest_gap']:.2e}", goal)
    bounded = found["soft, q8, at the same weights"]
    table.add_row(
        "soft, q8, at the same weights",
        f"{bounded['within_bound']:.0f} of {bounded['steps']:.0f} in bound",
        f"{bounded['largest_gap']:.2e}",
        f"the bound, of which {bounded['largest_share']:.0%} is used at most",
    )
    Console(width=120).print(table)
    head = environment(("torch", "timm", "zarr", "numpy"))
    print(head)
    settings = {
        **dataclasses.asdict(config),
        "json": None,
        "images": Path(config.images).name if config.images else "synthetic",
    }
    write_json(config.json, {"benchmark": "parity", **head, "config": settings, "found": found})
    return 0 if is_parity(found) else 1


if __name__ == "__main__":
    sys.exit(run_single("python -m benchmarks.parity", Command(ParityConfig, _benchmark), sys.argv[1:]))
