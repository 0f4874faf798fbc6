"""Pages of the explorer: each depends only on a collection and on the numbers and names in its URL.

URLs are paths of files, and links are relative, so that the server and `--static` use the same pages.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jinja2
import numpy as np

from pipelines.explorer.collection import SORTS, Collection, encoded
from teacher_cache.sharing.catalog_page import text_of_bytes

SAMPLES_A_PAGE, CLASSES_A_PAGE, VIEWS_A_PAGE = 24, 100, 8
_COLUMNS = 64
_BARS = 5
"""Number of classes that a view shows beside its picture."""
_PAIRS = 100


class Explorer:
    """Pages about one collection.

    Args:
        num_samples: Samples of each order to show, where pages are written to a folder; None for all.
        name: Name of the archive on the pages; its URL by default.

    Attributes:
        policy: Content security policy of the pages.
    """

    def __init__(
        self, collection: Collection, num_samples: int | None = None, name: str | None = None
    ) -> None:
        self.collection, self._num_samples = collection, num_samples
        loaders = [
            jinja2.PackageLoader("pipelines.explorer", "pages"),
            jinja2.PackageLoader("teacher_cache.sharing", "pages"),
        ]
        self._environment = jinja2.Environment(
            loader=jinja2.ChoiceLoader(loaders), autoescape=True, trim_blocks=True, lstrip_blocks=True
        )
        self._environment.filters |= {"bytes": text_of_bytes, "percent": _percent, "number": _number}
        css = self._environment.get_template("explorer.css").render()
        digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
        self.policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src 'self'; base-uri 'none'"
        self._environment.globals |= {
            "css": css,
            "policy": self.policy,
            "url": name or collection.reader.url,
            "facts": collection.facts,
            "classes": collection.classes,
            "sorts": {name: SORTS[name] for name in collection.sorts},
            "has_images": collection.has_images,
            "is_labelled": "label" in collection.sorts,
            "is_static": num_samples is not None,
        }

    def overview(self) -> str:
        """Return the first page: facts, coverage, distributions."""
        collection, figures = self.collection, self.collection.figures
        charts = []
        if figures is not None:
            charts = [
                ("Probability of the top class", figures.confidences, "0", "1"),
                ("Entropy in nats", figures.entropies, "0", "log C"),
                ("Mass outside the top k", figures.tails, "0", "1"),
            ]
        return self._page(
            "overview.html.jinja", 0, figures=figures, coverage=collection.coverage(_COLUMNS), charts=charts
        )

    def samples(self, sort: str, class_id: int | None, page: int) -> str | None:
        """Return a page of samples as HTML; None if the page does not exist."""
        rows_N = self.collection.sorted_rows(sort, class_id)[: self._num_samples]
        num_pages = max(1, -(-len(rows_N) // SAMPLES_A_PAGE))
        if page >= num_pages:
            return None
        first = page * SAMPLES_A_PAGE
        samples = [self.collection.sample(int(row)) for row in rows_N[first : first + SAMPLES_A_PAGE]]
        return self._page(
            "samples.html.jinja",
            3,
            samples=samples,
            sort=sort,
            class_id=class_id,
            folder="all" if class_id is None else str(class_id),
            page=page,
            num_pages=num_pages,
            num_samples=len(rows_N),
            first=first,
        )

    def sample(self, row: int, page: int) -> str | None:
        """Return a page of a sample's views as HTML; None if the page does not exist."""
        if not 0 <= row < self.collection.facts.samples:
            return None
        views = self.collection.views_of(row)
        num_pages = max(1, -(-len(views) // VIEWS_A_PAGE))
        if page >= num_pages:
            return None
        shown = views[page * VIEWS_A_PAGE : (page + 1) * VIEWS_A_PAGE]
        bars = [(view, self.collection.bars(row, view)[:_BARS]) for view in shown]
        return self._page(
            "sample.html.jinja",
            2,
            sample=self.collection.sample(row),
            bars=bars,
            page=page,
            num_pages=num_pages,
        )

    def view(self, row: int, view: int) -> str | None:
        """Return the page of a view as HTML; None if the view has no label."""
        if not 0 <= row < self.collection.facts.samples or view not in self.collection.views_of(row):
            return None
        values: dict[str, Any] = {}
        if self.collection.has_images:
            values = dict(self.collection.inspect(row, view).values)
            values.pop("label", None)
        return self._page(
            "view.html.jinja",
            2,
            sample=self.collection.sample(row),
            view=view,
            bars=self.collection.bars(row, view),
            values=values,
        )

    def has_picture(self, row: int, view: int | None = None) -> bool:
        """Return whether there is a picture of a sample, or of a view of it."""
        is_there = self.collection.has_images and row < self.collection.facts.samples
        return is_there and (view is None or view in self.collection.views_of(row))

    def confusions(self) -> str:
        """Return the page of the most frequent confusions."""
        figures = self.collection.figures
        pairs = figures.confusions[:_PAIRS] if figures else []
        return self._page("confusions.html.jinja", 0, pairs=pairs, figures=figures)

    def class_list(self, page: int) -> str | None:
        """Return a page of classes as HTML, the lowest agreement first; None if the page does not exist."""
        figures, num_classes = self.collection.figures, self.collection.facts.classes
        num_pages = -(-num_classes // CLASSES_A_PAGE)
        if page >= num_pages:
            return None
        order = list(range(num_classes))
        if figures is not None:
            order.sort(key=lambda number: (not figures.rows_C[number], figures.agreement_C[number]))
        shown = order[page * CLASSES_A_PAGE : (page + 1) * CLASSES_A_PAGE]
        return self._page(
            "classes.html.jinja", 1, shown=shown, figures=figures, page=page, num_pages=num_pages
        )

    def _page(self, template: str, depth: int, **values: Any) -> str:
        page = self._environment.get_template(template).render(base="../" * depth, **values)
        return page.encode("utf-8", "replace").decode()  # names come from elsewhere


def static_pages(
    explorer: Explorer, collection: Collection, num_samples: int
) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the address of every page and picture to write, and the function that makes it.

    Args:
        num_samples: Number of samples in each order whose pages are written.
    """
    yield "index.html", explorer.overview
    yield "confusions.html", explorer.confusions
    for page in range(-(-collection.facts.classes // CLASSES_A_PAGE)):
        yield f"classes/{page}.html", functools.partial(explorer.class_list, page)
    rows: dict[int, None] = {}
    for sort in collection.sorts:
        listed = np.asarray(collection.sorted_rows(sort, None)[:num_samples])
        rows.update(dict.fromkeys(listed.tolist()))
        for page in range(-(-len(listed) // SAMPLES_A_PAGE)):
            yield (
                f"samples/{sort}/all/{page}.html",
                functools.partial(explorer.samples, sort, None, page),
            )
    for row in rows:
        yield from _static_sample(explorer, collection, row)


def _static_sample(
    explorer: Explorer, collection: Collection, row: int
) -> Iterator[tuple[str, Callable[[], Any]]]:
    views: Sequence[int] = collection.views_of(row)
    for page in range(-(-len(views) // VIEWS_A_PAGE)):
        yield f"sample/{row}/{page}.html", functools.partial(explorer.sample, row, page)
    if collection.has_images:
        yield f"image/{row}/image.jpg", functools.partial(collection.thumbnail, row)
    for view in views:
        yield f"view/{row}/{view}.html", functools.partial(explorer.view, row, view)
        if collection.has_images:
            yield f"image/{row}/{view}.jpg", functools.partial(collection.view_picture, row, view)
            yield f"image/{row}/{view}.png", functools.partial(strip_png, collection, row, view)


def strip_png(collection: Collection, row: int, view: int) -> bytes:
    """Return the picture of how a view is made, as a PNG."""
    return encoded(collection.inspect(row, view).strip, "PNG")


def _percent(value: float | None) -> str:
    return "—" if value is None else f"{value:.1%}"


def _number(value: float | None) -> str:
    return "—" if value is None else f"{value:,.4g}"
