"""Units of another archive that a new one can refer to, instead of computing them again."""

from __future__ import annotations

from typing import Any

from teacher_cache.archive.format.manifest import Manifest
from teacher_cache.archive.format.part import places, read_part
from teacher_cache.archive.format.receipts import Receipt
from teacher_cache.archive.format.spec import ArchiveSpec
from teacher_cache.archive.format.spec_file import differing_fields
from teacher_cache.errors import ArchiveError
from teacher_cache.exact.canonical import sha256_of
from teacher_cache.storage.store import Store


def extension(
    store: Store, spec: ArchiveSpec, base: Store, manifest: Manifest
) -> dict[str, tuple[Receipt, ...]]:
    """Return the receipts of units that a new archive can reuse, by their archive's URL relative to `store`.

    These are the units of `base` for the leading image shards that both datasets share; everything else that
    determines labels must be equal. Archives that `base` extends are referred to directly.

    Args:
        manifest: Manifest of `base`, as it was read once and checked.

    Raises:
        ArchiveError: The archives differ in another setting that determines labels.
    """
    there = manifest.spec
    ours, theirs = (_identity_of_units(part) for part in (spec, there))
    if sha256_of(ours) != sha256_of(theirs) or spec.views_per_unit != there.views_per_unit:
        what = differing_fields("", theirs, ours) or [
            f"views_per_unit {there.views_per_unit}, not {spec.views_per_unit}"
        ]
        raise ArchiveError(
            f"{base.url} holds labels of another request: {'; '.join(what)}",
            "Its units cannot be reused for this request.",
            "use the same recipe, teacher, topk and views per unit, or omit --extends",
        )
    here = store.relative_url(base)
    pairs = zip(spec.dataset["shards"], there.dataset["shards"], strict=False)
    same = next((n for n, (a, b) in enumerate(pairs) if tuple(a) != tuple(b)), None)
    shared = min(len(spec.dataset["shards"]), len(there.dataset["shards"])) if same is None else same
    found: dict[str, list[Receipt]] = {}
    for relative_url, receipt in places(manifest, read_part(base, manifest)).values():
        where = store.relative_url(base.beside(relative_url)) if relative_url else here
        if receipt.unit.shard < shared and where != ".":
            found.setdefault(where, []).append(receipt)
    return {where: tuple(receipts) for where, receipts in found.items()}


def _identity_of_units(spec: ArchiveSpec) -> dict[str, Any]:
    """Return the fields that must be equal for two archives to share units."""
    labels = {**spec.identity["labels"], "affinity": spec.labels.affinity is not None}
    if spec.labels.components is not None:  # the basis is that of the extended archive
        labels["components"] = {**spec.labels.components, "max_views": None}
    return {**spec.identity, "dataset": None, "labels": labels}
