"""Debian's Chromium, for tests and attacks on pages."""

from __future__ import annotations

import functools
import shutil

from benchmarks.debian import install

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]


@functools.cache
def chromium_path() -> str | None:
    """Return Debian's Chromium, after installing it where this process may; None where there is none."""
    found = shutil.which("chromium")
    return shutil.which("chromium") if found is None and install("chromium") else found
