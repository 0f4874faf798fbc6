"""Page of a catalog: one HTML file that loads nothing from other hosts, and works without scripts too."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from typing import Any

import jinja2

from teacher_cache.sharing.catalog_file import Catalog

_COMPARED = (
    *("name", "teacher", "weights", "recipe", "img_size", "views", "views_per_unit", "topk", "values"),
    *("dataset", "samples", "classes", "label_bytes", "agreement", "confidence", "entropy", "tail"),
    *("precision", "gpu_hours", "image_license", "teacher_license", "signed_by", "fingerprint"),
)


def page_html(catalog: Catalog, root: str) -> str:
    """Return the page of a catalog.

    Args:
        root: URL of the folder or bucket, for the commands that the page shows.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("teacher_cache.sharing", "pages"), autoescape=True, trim_blocks=True
    )
    environment.filters["bytes"] = text_of_bytes
    parts = {name: environment.get_template(f"catalog.{name}").render() for name in ("css", "js")}
    facets = {
        name: sorted({str(getattr(entry.facts, name)) for entry in catalog.archives})
        for name in ("dataset", "teacher", "recipe")
    }
    archives = [
        {
            "entry": entry,
            "url": shlex.quote(f"{root}/{entry.path}" if entry.path else root),
            "values": json.dumps(_values(entry.name, entry.facts)),
        }
        for entry in catalog.archives
    ]
    return environment.get_template("catalog.html.jinja").render(
        archives=archives,
        catalog=catalog,
        facets=facets,
        root=root,
        css=parts["css"],
        js=parts["js"],
        css_hash=_hash(parts["css"]),
        js_hash=_hash(parts["js"]),
    )


def text_of_bytes(count: float) -> str:
    """Return a size as text: "1.2 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def _values(name: str, facts: Any) -> dict[str, str]:
    """Return what two archives are compared by, as text."""
    found = {"name": name}
    for field in _COMPARED[1:]:
        value = getattr(facts, field)
        if isinstance(value, list):
            value = ", ".join(value)
        elif field == "label_bytes":
            value = text_of_bytes(value)
        found[field.replace("_", " ")] = "" if value is None else str(value)
    return found


def _hash(text: str) -> str:
    """Return the source expression of an inline script or style in a content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
