"""Gather the facts of an archive from its documents, its figures and the statements about it."""

from __future__ import annotations

from typing import Any

from teacher_cache.archive.figures.figures import Figures, figures_of
from teacher_cache.archive.format.signature import Statement, statements_of
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.archive.readers.source import view_ranges
from teacher_cache.sharing.facts import Facts
from teacher_cache.storage.store import Store


def facts_of(reader: ArchiveReader, store: Store | None = None) -> tuple[Facts, Figures | None]:
    """Return the facts of an archive, and its figures where they were measured.

    Args:
        store: Store of its companions; the reader's by default.

    Raises:
        ArchiveError: The figures are damaged.
    """
    store = store or reader.store
    figures, statements = figures_of(reader, store), statements_of(store)
    spec, first = reader.spec, statements[0] if statements else None
    means: dict[str, Any] = {
        name: getattr(figures, name, None) for name in ("agreement", "confidence", "entropy", "tail")
    }
    return (
        Facts(
            fingerprint=spec.fingerprint,
            manifest_sha256=reader.manifest_sha256,
            dataset=spec.dataset["sha256"],
            samples=sum(count for _, count in spec.dataset["shards"]),
            shards=len(spec.dataset["shards"]),
            classes=spec.labels.num_classes,
            teacher=str(spec.teacher["model"])[:500],
            weights=spec.teacher["weights_sha256"],
            precision=spec.teacher["precision"],
            recipe=reader.recipe.name[:500],
            img_size=reader.recipe.img_size,
            topk=spec.labels.k,
            values=spec.labels.values,
            views=view_ranges(reader.views)[:500],
            num_views=len(reader.views),
            views_per_unit=spec.views_per_unit,
            covers=(len(reader.receipts), len(reader.manifest.all_receipts)),
            label_bytes=reader.num_bytes,
            **means,
            signed_by=[_signer(statement) for statement in statements],
            image_license=first.image_license if first else "",
            teacher_license=first.teacher_license if first else "",
            gpu_hours=first.gpu_hours if first else None,
        ),
        figures,
    )


def _signer(statement: Statement) -> str:
    return f"{statement.who} ({statement.key_id})"[:500]
