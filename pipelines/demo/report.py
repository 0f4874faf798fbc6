"""Page of the demo: the table, the training curves, and samples with views and the teacher's labels."""

from __future__ import annotations

import base64
import dataclasses
import io
from pathlib import Path

import jinja2
import matplotlib as mpl
import matplotlib.figure
import numpy as np
from PIL import Image

from pipelines.demo.run import COMPARED_STEPS, DemoResult
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.views.render import render_views

HEADERS = (
    "student",
    "class head",
    "distillation head",
    "both",
    "images/s",
    "seconds",
    "label bytes/view",
    "teacher passes",
    "passes saved",
)
_SHOWN_VIEWS = range(3)
_SHOWN_LABELS = 4
_CURVE_WINDOW = 20


@dataclasses.dataclass(frozen=True)
class _Bar:
    name: str
    share: float


@dataclasses.dataclass(frozen=True)
class _View:
    image: str
    bars: list[_Bar]


def table(result: DemoResult) -> list[tuple[str, ...]]:
    """Return the table's rows, one per student, under HEADERS."""
    live_passes = result.students["live teacher"].teacher_passes
    rows = []
    for name, run in result.students.items():
        is_cached = name == "cached labels"
        passes = result.extraction.views if is_cached else run.teacher_passes
        heads = [f"{run.accuracy[head]:.1%}" for head in ("class", "distillation", "both_softmax")]
        rows.append(
            (
                name,
                *heads,
                f"{run.images / run.seconds:,.0f}",
                f"{run.seconds:.1f}",
                f"{result.extraction.label_bytes / result.extraction.labels:.1f}" if is_cached else "-",
                f"{passes:,}",
                f"{live_passes - passes:,}" if is_cached else "-",
            )
        )
    return rows


def write_report(out: Path, result: DemoResult, num_samples: int = 6) -> Path:
    """Write out/report.html, a page that needs no other files, and return its path."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipelines.demo", "."), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("report.html.jinja").render(
        headers=HEADERS,
        rows=table(result),
        result=result,
        teacher_accuracy=f"{result.teacher.accuracy['class']:.1%}",
        compared_steps=COMPARED_STEPS,
        curves=_curves(result.curves),
        samples=_samples(out, num_samples),
        view_numbers=list(_SHOWN_VIEWS),
    )
    path = out / "report.html"
    path.write_text(page)
    return path


def _curves(curves: dict[str, list[float]]) -> str:
    """Return running means of the losses, as a data URL of an SVG."""
    figure = matplotlib.figure.Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots()
    styles = {"no teacher": "-", "live teacher": "-", "cached labels": "--"}
    window = np.ones(_CURVE_WINDOW) / _CURVE_WINDOW
    for name, losses in curves.items():
        axes.plot(np.convolve(losses, window, "valid"), styles[name], label=name, linewidth=1.5)
    axes.set(xlabel="step", ylabel=f"loss, mean of {_CURVE_WINDOW} steps")
    axes.grid(alpha=0.3)
    axes.legend()
    with io.BytesIO() as svg, mpl.rc_context({"svg.hashsalt": "teacher-cache"}):
        figure.savefig(svg, format="svg", metadata={"Date": None})
        return _data_url("image/svg+xml", svg.getvalue())


def _samples(out: Path, count: int) -> list[dict[str, object]]:
    """Return samples for the template: the original, the first views, and the teacher's label of each."""
    dataset, archive = PackedDataset(str(out / "train")), ArchiveReader(str(out / "labels"))
    recipe, classes = archive.recipe, dataset.info.classes
    views_VHWC = np.empty((len(_SHOWN_VIEWS), recipe.img_size, recipe.img_size, 3), np.uint8)
    samples: list[dict[str, object]] = []
    for row in range(count):
        image, key = dataset.image_bytes(row), dataset.index.key(row)
        render_views(image, recipe, key, _SHOWN_VIEWS, views_VHWC)
        views = []
        for view, pixels_HWC in zip(_SHOWN_VIEWS, views_VHWC, strict=True):
            labels = archive.lookup(np.array([row]), np.array([view]))
            pairs = zip(labels.class_ids_BK[0].tolist(), labels.probabilities()[0].tolist(), strict=True)
            bars = [_Bar(classes[class_id], share) for class_id, share in pairs][:_SHOWN_LABELS]
            with io.BytesIO() as png:
                Image.fromarray(pixels_HWC).save(png, "png")
                views.append(_View(_data_url("image/png", png.getvalue()), bars))
        name = classes[dataset.index.labels_N[row]]
        samples.append({"key": key, "class": name, "image": _data_url("image/png", image), "views": views})
    return samples


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
