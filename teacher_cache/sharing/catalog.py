"""Catalog of a folder or bucket of archives: catalog.json, and a page to search and compare them."""

from __future__ import annotations

import contextlib
import dataclasses
import json

from teacher_cache.archive.format.companions import CROISSANT_FILE, get_companion
from teacher_cache.archive.format.documents import converted
from teacher_cache.archive.format.manifest import MANIFEST_FILE
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.errors import InputError
from teacher_cache.following.job import is_filling
from teacher_cache.program.progress import Track
from teacher_cache.sharing.catalog_file import CATALOG_FILE, PAGE_FILE, Catalog, Entry
from teacher_cache.sharing.catalog_page import page_html
from teacher_cache.sharing.gather import facts_of
from teacher_cache.storage.store import Store

_LONGEST = 200
"""Number of characters of a name or reason that are kept."""


def put_catalog(store: Store, track: Track) -> Catalog:
    """Write the catalog of all archives in a folder or bucket, and its page.

    An archive that cannot be read is left out, and the catalog says why.

    Raises:
        InputError: The store cannot list its objects, or holds no archive.
    """
    if not store.can_list:
        raise InputError(
            f"{store.url} cannot list its objects",
            "Its archives cannot be found.",
            "make the catalog in the local folder or the bucket that holds the files",
        )
    paths = sorted(
        name.removesuffix(MANIFEST_FILE).rstrip("/")
        for name in store.list()
        if (name == MANIFEST_FILE or name.endswith(f"/{MANIFEST_FILE}")) and not is_filling(name)
    )
    if not paths:
        raise InputError(
            f"{store.url} holds no finished archive", "There is nothing to catalog.", "push one there first"
        )
    found, left_out = [], []
    with track("catalog", len(paths), "archives") as advance:
        for path in paths:
            try:
                found.append(_entry(store, path))
            except (InputError, OSError) as error:
                left_out.append((_text(path), _text(str(error).partition("\n")[0])))
            advance(1)
    catalog = Catalog(found, left_out)
    store.put(PAGE_FILE, page_html(catalog, store.url).encode("utf-8", "replace"))
    store.put(CATALOG_FILE, catalog.to_bytes())
    return catalog


def _entry(store: Store, path: str) -> Entry:
    """Return the entry of an archive. Raises ArchiveError."""
    reader = ArchiveReader(f"{store.url}/{path}" if path else store.url)
    facts, _ = facts_of(reader)
    name = path or "."
    data = get_companion(reader.store, CROISSANT_FILE)
    if data is not None:
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            name = str(json.loads(data)["name"])
    entry = Entry(path, _text(name), facts)
    return converted(dataclasses.asdict(entry), Entry, "the entry of an archive")


def _text(text: str) -> str:
    """Return untrusted text, cut to `_LONGEST`, without characters that UTF-8 cannot encode."""
    return text[:_LONGEST].encode("utf-8", "replace").decode()
