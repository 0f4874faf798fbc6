"""Questions about paths and URLs as text, without opening them."""

from __future__ import annotations

from urllib.parse import unquote


def is_below(path: str, folder: str) -> bool:
    """Return whether a path, as text without "..", is a folder or lies below it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def is_chained(url: str) -> bool:
    """Return whether a URL names several file systems, as fsspec's "simplecache::s3://bucket" does."""
    return "://" in url and "::" in url


def leads_upwards(path: str) -> bool:
    """Return whether a path has a part "..", also as %2e%2e, which web clients resolve."""
    return ".." in path.split("/") or ".." in unquote(path).split("/")
