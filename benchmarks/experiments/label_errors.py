"""Wrong labels found by a teacher's disagreement: some true labels are changed by a seed, then looked for.

    python -m benchmarks.experiments.label_errors --data train.parquet --out errors --json errors.json

A teacher is trained on the labels as they then are, wrong ones included, and labels its own training images.
Teams that label ImageNet with a teacher trained on ImageNet have the same case. The explorer sorts samples by
the same probability. Where cleanlab is installed, its scores of the same probabilities are sorted too.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import Meta
from rich.console import Console
from rich.table import Table

from benchmarks.machine import write_result
from pipelines.extraction.flags import ExtractConfig
from pipelines.extraction.running.extract import extract
from student.config import TrainConfig
from student.loop import LAST_FILE
from student.train import train
from teacher_cache.archive.figures.figures import figures_of, rows_of
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.dataset.packing.pack import PackOptions, pack
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.dataset.sources.open import open_source
from teacher_cache.errors import InputError
from teacher_cache.program.commandline import Command, run_single
from teacher_cache.program.flags import Flags
from teacher_cache.program.progress import console
from teacher_cache.storage.store import Store

_TOPK = 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelErrorsConfig(Flags):
    """Change some labels of a parquet dataset, and look for them by the teacher's disagreement."""

    data: str
    """Parquet file with a column of images and a column `label`."""
    out: str = "label-errors"
    """New folder for the changed dataset, the teacher and its labels."""
    share: Annotated[float, Meta(gt=0, lt=1)] = 0.02
    """Share of the labels that are changed to another class."""
    seed: Annotated[int, Meta(ge=0)] = 0
    """Seed of the choice of labels and their new classes."""
    model: str = "regnety_002"
    """Teacher, a timm model."""
    img_size: Annotated[int, Meta(ge=1)] = 64
    """Side of a view in pixels."""
    epochs: Annotated[int, Meta(ge=1)] = 12
    """Passes of the teacher over the images."""
    views: Annotated[int, Meta(ge=1)] = 4
    """Views that the teacher labels of each image."""
    json: str | None = None
    """File for the result."""


def changed_labels(
    labels_N: npt.NDArray[np.int64], num_classes: int, share: float, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return labels of which a share was changed to another class, and which were changed.

    Args:
        labels_N: True classes.
        num_classes: Number of classes.
        share: Share that is changed, rounded to a whole number of labels.
        seed: Seed of the choice.
    """
    rng = np.random.default_rng(seed)
    is_changed_N = np.zeros(len(labels_N), bool)
    is_changed_N[rng.choice(len(labels_N), round(share * len(labels_N)), replace=False)] = True
    shift_N = rng.integers(1, num_classes, len(labels_N))
    return np.where(is_changed_N, (labels_N + shift_N) % num_classes, labels_N), is_changed_N


def share_found(scores_N: npt.NDArray[np.floating], is_changed_N: npt.NDArray[np.bool_]) -> float:
    """Return the share of the changed labels among as many samples of the lowest scores."""
    lowest = np.argsort(scores_N, kind="stable")[: is_changed_N.sum()]
    return float(is_changed_N[lowest].sum() / is_changed_N.sum())


def run_experiment(config: LabelErrorsConfig) -> dict[str, Any]:
    """Run everything; return the shares found by each score, and the teacher's agreement.

    Raises:
        InputError: The folder is not empty.
    """
    out = Path(config.out)
    if out.exists() and any(out.iterdir()):
        raise InputError(f"--out {out} is not empty", "It would be lost.", "choose a new folder")
    (out / "source").mkdir(parents=True)
    table = pq.read_table(config.data)
    labels_N = table["label"].to_numpy().astype(np.int64)
    num_classes = int(labels_N.max()) + 1
    changed_N, is_changed_N = changed_labels(labels_N, num_classes, config.share, config.seed)
    place = table.column_names.index("label")
    field = table.schema.field("label")
    table = table.set_column(place, field, pa.array(changed_N, field.type))
    pq.write_table(table, out / "source" / "train.parquet")
    pack(
        open_source(str(out / "source" / "train.parquet")),
        Store(out / "data"),
        PackOptions(shard_size=2000, shuffle=False, workers=2),
        console,
    )
    data = str(out / "data")
    train(
        TrainConfig(
            data=data,
            output=str(out / "teacher"),
            model=config.model,
            epochs=config.epochs,
            recipe="rrc",
            img_size=config.img_size,
            lr=2e-3,
            batch_size=128,
            warmup_epochs=1,
        ),
        console,
    )
    extract(
        ExtractConfig(
            data=data,
            teacher=config.model,
            checkpoint=str(out / "teacher" / LAST_FILE),
            out=str(out / "labels"),
            recipe="rrc",
            img_size=config.img_size,
            views=f"0:{config.views}",
            topk=_TOPK,
        ),
        console,
    )
    return _compare(str(out / "labels"), PackedDataset(data), is_changed_N)


def _compare(labels: str, dataset: PackedDataset, is_changed_N: npt.NDArray[np.bool_]) -> dict[str, Any]:
    reader = ArchiveReader(labels)
    figures = figures_of(reader)
    assert figures is not None
    rows = rows_of(reader.store, figures)
    assert rows is not None
    found = {
        "probability of the label (the explorer's order)": share_found(
            rows["true_probability"].to_numpy(), is_changed_N
        ),
        "margin": share_found(rows["margin"].to_numpy(), is_changed_N),
    }
    given_N, margins_N = dataset.index.labels_N, rows["margin"].to_numpy()
    found |= {
        f"cleanlab, {name}": share_found(scores_N, is_changed_N)
        for name, scores_N in _cleanlab(reader, given_N).items()
    }
    return {
        "labels": len(given_N),
        "changed": int(is_changed_N.sum()),
        "found": found,
        "chance": float(is_changed_N.mean()),
        "agreement with unchanged labels": float((margins_N > 0)[~is_changed_N].mean()),
        "agreement with changed labels": float((margins_N > 0)[is_changed_N].mean()),
    }


def _cleanlab(reader: ArchiveReader, labels_N: npt.NDArray[np.integer]) -> Mapping[str, Any]:
    """Return cleanlab's scores of the mean probabilities of all views; none where it is not installed."""
    try:
        from cleanlab.rank import get_label_quality_scores
    except ImportError:
        return {}
    num_classes = reader.spec.labels.num_classes
    mean_NC = np.zeros((len(labels_N), num_classes))
    rows_N = np.arange(len(labels_N))
    for view in reader.views:
        labels = reader.lookup(rows_N, np.full(len(rows_N), view))
        rest_N1 = labels.tail_B.double().numpy()[:, None] / (num_classes - labels.class_ids_BK.shape[1])
        view_NC = np.repeat(rest_N1, num_classes, axis=1)
        ids_NK = labels.class_ids_BK.numpy().astype(np.int64)
        np.put_along_axis(view_NC, ids_NK, labels.probabilities().double().numpy(), axis=1)
        mean_NC += view_NC / len(reader.views)
    mean_NC /= mean_NC.sum(1, keepdims=True)
    methods = ("normalized_margin", "self_confidence", "confidence_weighted_entropy")
    given_N = np.asarray(labels_N)
    return {method: get_label_quality_scores(given_N, mean_NC, method=method) for method in methods}


def _experiment(config: LabelErrorsConfig) -> int:
    """Run the experiment, print its table, and return 0."""
    found = run_experiment(config)
    table = Table(
        title=f"{found['changed']:,} of {found['labels']:,} labels changed; share of them among the first "
        f"{found['changed']:,} samples"
    )
    for header in ("sorted by", "share found"):
        table.add_column(header)
    for name, share in {**found["found"], "chance": found["chance"]}.items():
        table.add_row(name, f"{share:.1%}")
    Console(width=100).print(table)
    for name in ("unchanged", "changed"):
        share = found[f"agreement with {name} labels"]
        print(f"the teacher's mean over the views agrees with {share:.1%} of the {name} labels")
    write_result(config.json, "label errors", config, found, ("torch", "timm", "numpy"))
    return 0


if __name__ == "__main__":
    sys.exit(
        run_single(
            "python -m benchmarks.experiments.label_errors",
            Command(LabelErrorsConfig, _experiment),
            sys.argv[1:],
        )
    )
