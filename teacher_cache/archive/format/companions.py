"""Companions of an archive: files beside its documents that no label depends on, and their checksums.

README.md, croissant.json   the card
figures/                    figures of the labels, measured when the archive was finished
signatures/                 statements about the manifest, and their signatures
SHA256SUMS                  sha256 of every file, in the form that `sha256sum -c` reads
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from teacher_cache.archive.format.manifest import MANIFEST_FILE, Manifest
from teacher_cache.archive.format.part import Part, places
from teacher_cache.errors import DamagedError
from teacher_cache.exact.canonical import file_sha256, sha256_hex, unseal
from teacher_cache.storage.store import Store

CARD_FILE, CROISSANT_FILE, SUMS_FILE = "README.md", "croissant.json", "SHA256SUMS"
FIGURES, SIGNATURES = "figures", "signatures"
FIGURES_FILE, ROWS_FILE = f"{FIGURES}/labels.json", f"{FIGURES}/rows.parquet"
_NAME = re.compile(r"README\.md|croissant\.json|figures/[a-z_]{1,40}\.(json|parquet|png)|"
                   r"signatures/[0-9a-f]{16}\.(json|sig)")  # fmt: skip
_SUM_LINE = re.compile(r"^([0-9a-f]{64})  (\S+)$", re.MULTILINE)
MAX_COMPANION_BYTES, MAX_TOGETHER_BYTES = 2**25, 2**27
"""Size limits of a companion, and of all of an archive together, without the figures of rows."""
MAX_ROWS_BYTES = 2**30
"""Size limit of the figures of rows: 50 million rows."""


def is_companion(name: str) -> bool:
    """Return whether a file name is that of a companion; untrusted names are checked with this."""
    return name == SUMS_FILE or _NAME.fullmatch(name) is not None


def companions_of(store: Store) -> dict[str, bytes]:
    """Return the content of an archive's companions by name, without SHA256SUMS and the figures of rows.

    If the store cannot list its objects, the names are taken from SHA256SUMS.

    Raises:
        DamagedError: A companion, or all together, are larger than any that this program writes.
    """
    figures, signatures = store.sizes_if_listed(FIGURES), store.sizes_if_listed(SIGNATURES)
    if figures is None or signatures is None:
        names = list(get_sums(store))
    else:
        names = [CARD_FILE, CROISSANT_FILE, *sorted(figures), *sorted(signatures)]
    found: dict[str, bytes] = {}
    for name in names:
        if not _NAME.fullmatch(name) or name == ROWS_FILE:
            continue
        data = get_companion(store, name)
        if data is not None:
            found[name] = data
        if sum(map(len, found.values())) > MAX_TOGETHER_BYTES:
            raise DamagedError(
                f"the card, figures and signatures beside {store.url} have more than "
                f"{MAX_TOGETHER_BYTES:,} bytes together",
                "No more of them are read.",
                "delete those that do not belong there",
            )
    return found


@contextlib.contextmanager
def rows_copy(store: Store) -> Iterator[tuple[Path, str] | None]:
    """Yield a local copy of the figures of rows, which grow with the dataset, and its sha256; None for none.

    Raises:
        DamagedError: The file is larger than any that this program writes, or a link out of the archive.
    """
    if _checked_size(store, ROWS_FILE) is None:
        yield None
        return
    with store.local_copy(ROWS_FILE) as path:
        yield path, file_sha256(path)


def get_companion(store: Store, name: str) -> bytes | None:
    """Return a companion's content; None if it does not exist.

    Raises:
        DamagedError: It is larger than any that this program writes, or a link out of the archive.
    """
    size = _checked_size(store, name)
    return None if size is None else store.get(name, size)


def _checked_size(store: Store, name: str) -> int | None:
    """Return a companion's size in bytes; None if there is none. Raises DamagedError as `get_companion`."""
    size, limit = store.stat_optional(name), MAX_ROWS_BYTES if name == ROWS_FILE else MAX_COMPANION_BYTES
    if size is None:
        return None
    if size > limit:
        raise DamagedError(f"{store.path(name)} has {size:,} bytes", f"More than {limit:,} are never read.")
    return size


def damaged_companions(store: Store) -> list[str]:
    """Return the sorted names of companions whose seal or checksum does not match their content."""
    found, sums = [], get_sums(store)
    companions, manifest = companions_of(store), get_companion(store, MANIFEST_FILE)
    if manifest is None or sums.get(MANIFEST_FILE) != sha256_hex(manifest):
        sums = {}  # they are another manifest's
    for name, data in companions.items():
        has_own_sum = name == FIGURES_FILE  # measured again, it stays right
        is_damaged = not has_own_sum and name in sums and sha256_hex(data) != sums[name]
        if name.endswith(".json") and name != CROISSANT_FILE:
            try:
                unseal(data)
            except ValueError:
                is_damaged = True
        if is_damaged:
            found.append(name)
    if FIGURES_FILE in companions and FIGURES_FILE not in found:
        figures = unseal(companions[FIGURES_FILE]).get("figures")
        rows_sha256 = figures.get("rows_sha256") if isinstance(figures, dict) else None
        if not isinstance(figures, dict):
            found.append(FIGURES_FILE)
        with rows_copy(store) as rows:
            if rows is not None and rows[1] != rows_sha256:
                found.append(ROWS_FILE)
    return sorted(set(found))


def are_figures_current(store: Store) -> bool:
    """Return whether the figures beside an archive are those of its manifest."""
    data, manifest = get_companion(store, FIGURES_FILE), get_companion(store, MANIFEST_FILE)
    if data is None or manifest is None:
        return False
    try:
        return unseal(data)["figures"]["manifest_sha256"] == sha256_hex(manifest)
    except (ValueError, KeyError, TypeError):
        return False


def get_sums(store: Store) -> dict[str, str]:
    """Return the sha256 of each name in SHA256SUMS; none if there is no such file."""
    data = get_companion(store, SUMS_FILE)
    text = "" if data is None else data.decode("utf-8", "replace")
    return {name: sha256 for sha256, name in _SUM_LINE.findall(text)}


def sums_bytes(
    manifest: Manifest, part: Part | None, others: Mapping[str, bytes], rows_sha256: str | None
) -> bytes:
    """Return the content of SHA256SUMS.

    Args:
        part: Part that the copy has; None for the whole archive.
        rows_sha256: sha256 of the figures of rows; None for none.
        others: Content by name of the copy's files, except label objects, manifest and part.json.
    """
    layout = manifest.spec.layout
    sums = {} if rows_sha256 is None else {ROWS_FILE: rows_sha256}
    sums |= {name: sha256_hex(data) for name, data in others.items()}
    for array, (sha256, _) in (manifest.shared or {}).items():
        sums[layout.shared_name(array)] = sha256
    for relative_url, receipt in places(manifest, part).values():
        for array, (sha256, _) in receipt.objects.items():
            if not relative_url:
                sums[layout.object_name(array, receipt.unit)] = sha256
    sums[MANIFEST_FILE] = sha256_hex(manifest.to_bytes())
    return "".join(f"{sha256}  {name}\n" for name, sha256 in sorted(sums.items())).encode()
