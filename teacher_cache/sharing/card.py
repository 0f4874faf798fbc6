"""Card of an archive: README.md with Hugging Face's front matter, croissant.json, and two pictures."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
from collections.abc import Sequence

from huggingface_hub import DatasetCardData

from teacher_cache.archive.figures.figures import BINS, Figures
from teacher_cache.archive.format.companions import (
    CARD_FILE,
    CROISSANT_FILE,
    FIGURES,
    FIGURES_FILE,
    ROWS_FILE,
    get_companion,
)
from teacher_cache.archive.format.manifest import MANIFEST_FILE
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.program.chart import Panel, Series, chart_png
from teacher_cache.sharing.croissant import croissant_bytes
from teacher_cache.sharing.facts import Facts
from teacher_cache.sharing.gather import facts_of
from teacher_cache.sharing.sums import put_sums
from teacher_cache.storage.store import Store

CONFIDENCE_FILE, AGREEMENT_FILE = f"{FIGURES}/confidence.png", f"{FIGURES}/agreement.png"
_SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
)
_WORST = 5
"""Number of classes with least agreement, and of most frequent confusions, that a card lists."""


@dataclasses.dataclass(frozen=True)
class About:
    """Facts for an archive's card that the archive itself does not record.

    Attributes:
        license: Licence of the labels, as Hugging Face names licences.
        image_license: Licence of the images.
        teacher_license: Licence of the teacher's weights.
        url: Page or bucket where the archive lies.
        date: Date of publication, ISO 8601.
        cost: Cost of the labels in words; empty if unknown.
    """

    name: str
    license: str
    image_license: str
    teacher_license: str
    url: str
    date: str
    cost: str


def put_card(reader: ArchiveReader, store: Store, about: About) -> list[str]:
    """Write an archive's card, then its SHA256SUMS; return the names of the card's files.

    Args:
        store: Store of the archive to write to; the reader's may be pinned to a revision.
        about: Facts that no archive holds.
    """
    facts, figures = facts_of(reader, store)
    pictures: dict[str, bytes] = {}
    if figures is not None:
        pictures[CONFIDENCE_FILE] = confidence_png(figures)
        if figures.agreement is not None:
            pictures[AGREEMENT_FILE] = agreement_png(figures)
    documents = {MANIFEST_FILE: reader.manifest.to_bytes()}
    for name in (FIGURES_FILE, ROWS_FILE) if figures is not None else ():
        data = get_companion(store, name)
        if data is not None:
            documents[name] = data
    files = {
        **pictures,
        CROISSANT_FILE: croissant_bytes(
            facts,
            documents,
            name=about.name,
            description=_summary(facts),
            license_=about.license,
            url=about.url,
            date=about.date,
        ),
        CARD_FILE: "\n".join(_lines(facts, figures, about, list(pictures))).encode(),
    }
    for name, data in files.items():
        store.put(name, data)
    put_sums(reader, store)
    return list(files)


def _summary(facts: Facts) -> str:
    return (
        f"Labels of {facts.num_views:,} augmented views of each of {facts.samples:,} images "
        f"by the teacher {_plain(facts.teacher)}: the {facts.topk} most probable of "
        f"{facts.classes:,} classes, and the mass outside."
    )


def _lines(facts: Facts, figures: Figures | None, about: About, pictures: Sequence[str]) -> list[str]:
    """Return the lines of README.md."""
    matter = DatasetCardData(
        license=about.license,
        pretty_name=about.name,
        task_categories=["image-classification"],
        tags=["knowledge-distillation", "teacher-logits", "teacher-cache"],
        size_categories=[next((text for most, text in _SIZES if facts.samples < most), "n>10M")],
    )
    rows = [
        ("teacher", f"{facts.teacher}, weights {facts.weights[:12]}, {facts.precision}"),
        ("views", f"{facts.views} of recipe {facts.recipe} at {facts.img_size} px"),
        ("labels", f"top {facts.topk} of {facts.classes:,} classes, {facts.values}"),
        ("dataset", f"{facts.samples:,} images in {facts.shards:,} shards, sha256 {facts.dataset[:12]}"),
        ("size", f"{facts.label_bytes:,} bytes"),
        ("fingerprint", f"`{facts.fingerprint}`"),
        ("cost", about.cost or "not recorded"),
        ("licence of the images", about.image_license or "unknown"),
        ("licence of the teacher", about.teacher_license or "unknown"),
        ("signed by", ", ".join(facts.signed_by) or "unsigned"),
    ]
    if facts.covers[0] < facts.covers[1]:
        rows.append(("part", f"{facts.covers[0]:,} of the {facts.covers[1]:,} units of the whole archive"))
    lines = ["---", matter.to_yaml(), "---", "", f"# {_plain(about.name)}", "", _summary(facts), ""]
    lines += ["| | |", "|---|---|", *(f"| {name} | {_plain(text)} |" for name, text in rows), ""]
    if figures is not None:
        lines += _figure_lines(figures, pictures)
    return [
        *lines,
        "## Use",
        "",
        "```sh",
        f"teacher-cache pull {shlex.quote(about.url)} labels",
        "student train --data PACKED --labels labels --distillation soft \\",
        "    --model deit_tiny_distilled_patch16_224",
        "```",
        "",
        "The labels are plain Zarr v3 arrays; the format is described in the documents of teacher-cache.",
        "",
    ]


def _figure_lines(figures: Figures, pictures: Sequence[str]) -> list[str]:
    lines = ["## Figures", "", f"Measured over all {figures.rows * len(figures.views):,} labels.", ""]
    lines += ["| | |", "|---|---|"]
    if figures.agreement is not None:
        lines.append(f"| top class is the true class | {figures.agreement:.2%} of the views |")
    lines += [
        f"| mean probability of the top class | {figures.confidence:.4f} |",
        f"| mean entropy | {figures.entropy:.4f} nats |",
        f"| mean mass outside the top k | {figures.tail:.4f} |",
        f"| bytes a view | {figures.bytes_per_view:.1f} |",
        "",
    ]
    lines += [f"![{name.partition('/')[2].partition('.')[0]}]({name})" for name in pictures]
    if figures.agreement is not None:
        named = [number for number, rows in enumerate(figures.rows_C) if rows]
        worst = sorted(named, key=lambda number: figures.agreement_C[number])[:_WORST]
        listed = ", ".join(f"{class_name(figures, c)} {figures.agreement_C[c]:.1%}" for c in worst)
        lines += ["", f"Least agreement: {listed}.", ""]
        pairs = [
            f"{class_name(figures, label)} as {class_name(figures, top)} ({count:,})"
            for label, top, count in figures.confusions[:_WORST]
        ]
        if pairs:
            lines += [f"Most frequent confusions: {', '.join(pairs)}.", ""]
    return [*lines, ""]


def class_name(figures: Figures, number: int) -> str:
    """Return the name of a class, or its number where the dataset names none."""
    return _plain(figures.classes[number]) if figures.classes else str(number)


def _plain(text: str) -> str:
    """Return text with Markdown and HTML syntax escaped, because names come from untrusted sources."""
    return "".join(f"\\{char}" if char in "|[]<>*_`\\" else char for char in text if char.isprintable())


_WIDTH_PX, _HEIGHT_PX = 880, 440


def confidence_png(figures: Figures) -> bytes:
    """Return a histogram of the probability of the top class, and of the tail mass, over all views."""
    total = sum(figures.confidences)
    tops = [count / total for count in figures.confidences]
    tails = [count / total for count in figures.tails]
    panel = Panel(
        [_stairs("top class", tops), _stairs("outside the top k", tails)],
        "probability",
        "share of the views",
        x_range=(0, 1),
        y_range=(0, 1.05 * max(*tops, *tails)),
    )
    return chart_png([panel], _WIDTH_PX, _HEIGHT_PX)


def agreement_png(figures: Figures) -> bytes:
    """Return charts of the agreement with true labels: by class, lowest first, and the mean of each view."""
    pairs = zip(figures.agreement_C, figures.rows_C, strict=True)
    shares = sorted(share for share, rows in pairs if rows)
    places = [number / max(len(shares) - 1, 1) for number in range(len(shares))]
    panels = [
        Panel([Series("", places, shares)], "share of the classes", "views that agree", (0, 1), (0, 1)),
        Panel([Series("", figures.views, figures.agreement_V, is_line=False)], "view", y_range=(0, 1)),
    ]
    return chart_png(panels, _WIDTH_PX, _HEIGHT_PX)


def _stairs(label: str, shares: Sequence[float]) -> Series:
    """Return a histogram's outline: each bin is as wide as the others."""
    edges = [number / BINS for number in range(BINS + 1)]
    xs = [x for pair in itertools.pairwise(edges) for x in pair]
    return Series(label, xs, [share for share in shares for _ in range(2)])
