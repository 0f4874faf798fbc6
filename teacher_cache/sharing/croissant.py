"""Croissant metadata of an archive (mlcommons.org/croissant 1.0): documents, and figures of rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from teacher_cache.archive.format.companions import FIGURES_FILE, ROWS_FILE
from teacher_cache.archive.format.manifest import MANIFEST_FILE
from teacher_cache.exact.canonical import sha256_hex
from teacher_cache.sharing.facts import Facts

_CR = "http://mlcommons.org/croissant"
_TERMS = (
    *("citeAs", "column", "extract", "field", "fileProperty", "fileObject", "fileSet", "format", "includes"),
    *("isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex"),
    *("repeated", "replace", "separator", "source", "subField", "transform"),
)
_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "cr": f"{_CR}/",
    "dct": "http://purl.org/dc/terms/",
    "rai": f"{_CR}/RAI/",
    "sc": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{term: f"cr:{term}" for term in _TERMS},
}
"""JSON-LD context that the specification prescribes, section "Prefixes and namespaces"."""
_FIELDS = {
    "label": ("sc:Integer", "true class; -1 where there is none"),
    "teacher_class": ("sc:Integer", "most probable class in the mean over the views"),
    "confidence": ("sc:Float", "probability of that class"),
    "true_probability": ("sc:Float", "mean probability of the true class"),
    "margin": ("sc:Float", "mean probability of the true class minus that of the best other class"),
    "disagreement": ("sc:Float", "Jensen-Shannon divergence between the views, in nats"),
    "views_agreed": ("sc:Integer", "number of views whose top class is the true class"),
}
_TYPES = {
    MANIFEST_FILE: "application/json",
    FIGURES_FILE: "application/json",
    ROWS_FILE: "application/x-parquet",
}
_ROWS = {
    "@type": "cr:RecordSet",
    "@id": "rows",
    "name": "rows",
    "description": "What all views of an image say; row r is row r of the dataset.",
    "field": [
        {
            "@type": "cr:Field",
            "@id": f"rows/{column}",
            "name": column,
            "description": text,
            "dataType": kind,
            "source": {"fileObject": {"@id": ROWS_FILE}, "extract": {"column": column}},
        }
        for column, (kind, text) in _FIELDS.items()
    ],
}


def croissant_bytes(
    facts: Facts,
    files: Mapping[str, bytes],
    *,
    name: str,
    description: str,
    license_: str,
    url: str,
    date: str,
) -> bytes:
    """Return the content of croissant.json.

    Args:
        files: Contents of manifest.json, and of the figures where there are any, by name.
        description: Description in one paragraph.
        license_: Licence of the labels.
        url: Page of the archive.
        date: Date of publication, ISO 8601.
    """
    document: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": f"{_CR}/1.0",
        "name": name,
        "description": description,
        "license": license_,
        "url": url,
        "version": "1.0.0",
        "datePublished": date,
        "citeAs": f"{name}, teacher labels of fingerprint {facts.fingerprint}",
        "creator": [{"@type": "sc:Organization", "name": signer} for signer in facts.signed_by]
        or [{"@type": "sc:Organization", "name": "unsigned"}],
        "keywords": ["knowledge distillation", "teacher logits", facts.teacher, facts.recipe],
        "distribution": [_file_object(file, data) for file, data in sorted(files.items())],
    }
    if ROWS_FILE in files:
        document["recordSet"] = [_ROWS]
    return (json.dumps(document, indent=1, sort_keys=True) + "\n").encode()


def _file_object(file: str, data: bytes) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": file,
        "name": file,
        "contentUrl": file,
        "contentSize": f"{len(data)} B",
        "encodingFormat": _TYPES[file],
        "sha256": sha256_hex(data),
    }
