"""Places that documents from elsewhere may name: files below a folder, and folders that the user names too.

A dataset, an archive or a catalog may come from a stranger. Without these checks, a place in it could make a
library run code (a chained URL), send a request to a host of the local network, or read any file.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta

from teacher_cache.errors import DatasetError, InputError
from teacher_cache.storage.paths import is_below, is_chained, leads_upwards
from teacher_cache.storage.store import Store

_PART = r"(?!(?:\.|%2[eE]){1,2}(?:/|\Z))"
RelativePath = Annotated[
    str, Meta(pattern=rf"^(?:{_PART}[^/:\\\x00-\x1f\x7f]+(?:/(?!\Z)|\Z))*\Z", max_length=1024)
]
"""Path below a folder: no "." or ".." in it, no scheme, backslash, control character or outer slash."""

FileName = Annotated[str, Meta(pattern=rf"^(?:{_PART}[^/\x00-\x1f\x7f]+(?:/(?!\Z)|\Z))+\Z", max_length=4096)]
"""Name of a file that others chose: as RelativePath, but it may have colons and backslashes."""
_REVISION = re.compile(r"^(hf://(?:(?:datasets|models|spaces)/)?[^/]+/[^/@]+)@[^/]+")
"""Revision of a repository of Hugging Face's hub in its URL."""


def checked_place(named: str, folder: Store, allowed: Sequence[str]) -> str:
    """Return a place that a document in a folder names, if it is inside the folder or an allowed place.

    Nothing is opened, because opening some kinds of URL already reads files or runs code.

    Args:
        named: Folder or URL, as the document has it.
        folder: Folder of the document.
        allowed: Folders and URLs that the user has named.

    Raises:
        DatasetError: The place is elsewhere, or is a chain of URLs.
    """
    if any(is_inside(named, place) for place in (folder.url, *allowed)):
        return named
    raise DatasetError(
        f"{folder.url} says that its images are in {named!r:.500}, outside its own folder",
        "Nothing was opened there: a dataset from elsewhere could name any place of this machine or network.",
        f"if you trust the dataset: --images-in {named!s:.500}, or images_in=[...] in Python",
    )


def path_inside(folder: str, named: str) -> str:
    """Return the path of a file that a document names relative to a local folder.

    Raises:
        InputError: It leads out of the folder, also by a link.
    """
    path = os.path.join(folder, named)  # noqa: PTH118  # pathlib refuses a NUL with another error
    if "\0" in named or not is_below(os.path.realpath(path), os.path.realpath(folder)):
        raise InputError(
            f"{named!r:.200} leads out of {folder}",
            "A file of this machine that the dataset's maker chose would be read.",
            "copy the file into the folder",
        )
    return path


def is_inside(named: str, place: str) -> bool:
    """Return whether a folder or URL is a place or lies below it; a revision of a repository counts as it."""
    ours, theirs = normal_url(named), normal_url(place)
    return ours is not None and theirs is not None and is_below(ours, theirs)


def normal_url(url: str) -> str | None:
    """Return a URL or path in one spelling, without a revision; None if it is chained, or leads upwards."""
    scheme, separator, path = url.partition("://")
    if "\0" in url or is_chained(url):
        return None
    if not separator or scheme in ("file", "local"):
        return os.path.realpath(Store(url).path(""))
    if leads_upwards(path):
        return None
    scheme = "s3" if scheme == "s3a" else scheme
    return _REVISION.sub(r"\1", f"{scheme}://{posixpath.normpath(path)}")
