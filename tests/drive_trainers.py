"""Drive every example trainer in this process, and say what it did."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import os
from pathlib import Path
from typing import Any

import torch.distributed as dist
from support import built_teacher

from examples import timm_script
from teacher_cache import ViewBatch, open_labels
from teacher_cache.labels.class_list import ClassList
from teacher_cache.labels.topk import labels_from_logits

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3}
RESNET = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"}
TRAINERS: dict[str, dict[str, Any]] = {
    "timm_script": VIT,
    "torchrun_loop": VIT,
    "accelerate_loop": VIT,
    "lightning_trainer": VIT,
    "hf_trainer": RESNET,
}
"""Arguments of the student in each example."""


@dataclasses.dataclass(frozen=True)
class Drive:
    """Data of all runs, and the teacher of the archive, which may be asked live."""

    data: str
    labels: str
    teacher: str
    checkpoint: str
    classes: tuple[str, ...] = ("ant", "bee", "cat")

    def run(
        self,
        name: str,
        output: Path,
        *,
        epochs: int,
        batch_size: int,
        live: bool = False,
        workers: int = 0,
        **options: Any,
    ) -> tuple[list[float], list[tuple[int, int]]]:
        """Train as an example does; return the loss of each batch, and each (row, view) in order."""
        teacher = built_teacher(
            self.teacher,
            classes=ClassList(self.classes),
            img_size=open_labels(self.labels).recipe.img_size,
            checkpoint=self.checkpoint,
        )
        seen: list[tuple[int, int]] = []

        def teach(batch: ViewBatch) -> Any:
            seen.extend(zip(batch.rows_B.tolist(), batch.views_B.tolist(), strict=True))
            return labels_from_logits(teacher.logits(batch.pixels("cpu")), 3) if live else batch.labels

        example = importlib.import_module(f"examples.{name}")
        flags = {"epochs": epochs, "batch_size": batch_size, "workers": workers}
        losses = example.train(
            example.Options(self.data, self.labels, str(output), **flags),
            teach=teach,
            **options,
            **TRAINERS[name],
        )
        if dist.is_initialized():
            dist.barrier()  # the first process may still write the state that the next run reads
        return losses, seen


def main(words: list[str]) -> None:
    """Run trainers with stored and with live labels, and stopped and resumed, on this rank.

    Args:
        words: Data, labels, teacher, checkpoint, folder of results, epochs, and names of trainers.
    """
    data, labels, teacher, checkpoint, folder, epochs, *names = words
    timm_script.init_distributed_device_so = functools.cache(timm_script.init_distributed_device_so)
    drive, rank = Drive(data, labels, teacher, checkpoint), os.environ["RANK"]
    for name in names:
        runs = {
            "stored": drive.run(name, Path(folder, name, "stored"), epochs=int(epochs), batch_size=4),
            "live": drive.run(name, Path(folder, name, "live"), epochs=int(epochs), batch_size=4, live=True),
        }
        parts = [
            drive.run(name, Path(folder, name, "parts"), epochs=int(epochs), batch_size=4, stop_after=stop)
            for stop in (8, None)
        ]
        runs["stopped"] = tuple(a + b for a, b in zip(*parts, strict=True))
        Path(folder, f"{name}-{rank}.json").write_text(json.dumps(runs))
