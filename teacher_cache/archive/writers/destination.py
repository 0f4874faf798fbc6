"""Check the destination of a copy: content to refuse, units already there, content of its part.json."""

from __future__ import annotations

from teacher_cache.archive.format.manifest import MANIFEST_FILE, Manifest, read_manifest
from teacher_cache.archive.format.part import Part, Position, places, position_of, read_part
from teacher_cache.archive.format.receipts import NOT_UNITS, Receipt, receipt_bytes, receipt_name
from teacher_cache.archive.format.spec import SPEC_FILE
from teacher_cache.archive.format.spec_file import differences, existing_spec
from teacher_cache.errors import ArchiveError, DamagedError, InputError
from teacher_cache.exact.canonical import sha256_hex
from teacher_cache.storage.store import Store

_TOGETHER = 256
"""Number of receipts that are read at once."""


def refuse_others(destination: Store, manifest: Manifest, source: Store) -> None:
    """Raise InputError if the destination is the source, or holds anything but units of the same archive."""
    if destination.url == source.url:
        raise InputError(
            f"cannot copy {source.url} onto itself", "There is nothing to copy.", "give another destination"
        )
    if destination.stat(SPEC_FILE) is None and destination.stat(MANIFEST_FILE) is None:
        if destination.can_list and destination.list():
            raise ArchiveError(
                f"{destination.url} is not empty and has no {SPEC_FILE}",
                "It is not an archive, and nothing in it is overwritten.",
                "choose a new folder",
            )
        return
    spec = existing_spec(destination, mend=False)
    if (spec.fingerprint, spec.views_per_unit) != (manifest.spec.fingerprint, manifest.spec.views_per_unit):
        what = differences(spec, manifest.spec) or [
            f"views_per_unit {spec.views_per_unit}, not {manifest.spec.views_per_unit}"
        ]
        raise ArchiveError(
            f"{destination.url} holds labels of another request: {'; '.join(what)}",
            "Labels of two requests cannot lie in one archive.",
            "choose a new folder",
        )
    if destination.stat(MANIFEST_FILE) is None:
        return
    known = {position_of(receipt): receipt.objects for receipt in manifest.all_receipts}
    try:
        old = read_manifest(destination)
    except DamagedError:  # it is written again
        return
    lost = [r.unit.name for r in old.all_receipts if known.get(position_of(r)) != r.objects]
    if lost or (old.shared or {}) != (manifest.shared or {}):
        listed = ", ".join(lost[:5]) or manifest.spec.labels.shared_title
        raise ArchiveError(
            f"{destination.url} has a manifest that lists {listed}, which "
            f"{source.url} lacks or holds with other bytes",
            "Readers of that manifest would lose labels if it were replaced.",
            "choose a new folder, or merge the two with: teacher-cache merge",
        )


def refuse_full_folder(destination: Store, num_units: int) -> None:
    """Refuse more receipts than the destination takes in a folder. Raises InputError."""
    limit = destination.max_folder_files
    if limit is not None and num_units + len(NOT_UNITS) > limit:
        raise InputError(
            f"{destination.url} would have {num_units:,} receipts in a folder",
            f"It takes {limit:,} files in a folder.",
            "share larger units: pack with a larger --shard-size, or extract with more --views-per-unit",
        )


def units_there(destination: Store, manifest: Manifest) -> set[Position]:
    """Return the units in the destination's own folder whose receipts and object sizes match the manifest."""
    if destination.stat(SPEC_FILE) is None:
        return set()
    layout, fingerprint = manifest.spec.layout, manifest.spec.fingerprint
    sizes = destination.sizes()
    whole = [
        receipt
        for receipt in manifest.all_receipts
        if receipt_name(receipt.unit) in sizes
        and all(
            sizes.get(layout.object_name(array, receipt.unit)) == size
            for array, (_, size) in receipt.objects.items()
        )
    ]
    found = set()
    for start in range(0, len(whole), _TOGETHER):
        some = whole[start : start + _TOGETHER]
        documents = destination.get_many([receipt_name(receipt.unit) for receipt in some])
        for receipt, data in zip(some, documents, strict=True):
            if data == receipt_bytes(receipt, fingerprint):
                found.add(position_of(receipt))
    return found


def drop_if_changed(store: Store, manifest: Manifest, receipt: Receipt) -> bool:
    """Delete a unit's receipt if an object has another sha256; return whether it was deleted."""
    layout = manifest.spec.layout
    for array, (sha256, _) in receipt.objects.items():
        if sha256_hex(store.get(layout.object_name(array, receipt.unit))) != sha256:
            store.delete(receipt_name(receipt.unit))
            return True
    return False


def units_elsewhere(destination: Store, manifest: Manifest, wanted: set[Position]) -> set[Position]:
    """Return the wanted units that a remote destination can read from archives that the manifest extends.

    The result is empty for a local destination: a copied manifest must not make it read other folders.
    """
    if destination.is_local:
        return set()
    found: set[Position] = set()
    for relative_url, receipts in manifest.extends.items():
        if not wanted & set(map(position_of, receipts)):
            continue
        try:
            other = destination.beside(relative_url)
            theirs = read_manifest(other)
            there = places(theirs, read_part(other, theirs))
        except InputError:  # there is no archive, or it is another one
            continue
        for receipt in receipts:
            url, known = there.get(position_of(receipt), ("", None))
            if known is not None and not url and known.objects == receipt.objects:
                found.add(position_of(receipt))
    return found & wanted


def units_read_elsewhere(destination: Store, manifest: Manifest) -> set[Position]:
    """Return the units that the destination reads from other archives already."""
    try:
        old = read_manifest(destination)
        there = places(old, read_part(destination, old))
    except ArchiveError:  # none, or a copy was stopped between the two documents
        return set()
    named = {position_of(receipt) for receipts in manifest.extends.values() for receipt in receipts}
    return {position for position, (relative_url, _) in there.items() if relative_url} & named


def part_of(manifest: Manifest, here: set[Position], elsewhere: set[Position]) -> Part | None:
    """Return the content of part.json; None if every unit is where the manifest places it."""
    own = {position_of(receipt) for receipt in manifest.receipts}
    named = {position_of(receipt) for receipt in manifest.all_receipts} - own
    if own <= here and named <= elsewhere - here:
        return None
    digest = sha256_hex(manifest.to_bytes())
    return Part(digest, frozenset(here), frozenset((elsewhere & named) - here))
