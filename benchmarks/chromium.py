"""Debian's Chromium, for tests and attacks on pages."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess

FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
_INSTALL_S = 120


@functools.cache
def chromium_path() -> str | None:
    """Return Debian's Chromium, after installing it where this process may; None where there is none."""
    found = shutil.which("chromium")
    if found is None and shutil.which("apt-get") and os.geteuid() == 0:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "-y", "--no-install-recommends", "chromium"]):
            try:
                subprocess.run(
                    ["apt-get", *command],
                    env=environment,
                    capture_output=True,
                    timeout=_INSTALL_S,
                    check=True,
                )
            except (subprocess.SubprocessError, OSError):
                return None
        found = shutil.which("chromium")
    return found
