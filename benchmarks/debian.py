"""Packages of Debian that benchmarks and tests need; they are installed where this process may."""

from __future__ import annotations

import os
import shutil
import subprocess

_INSTALL_S = 120


def install(package: str) -> bool:
    """Install a package, and return whether that succeeded."""
    if not shutil.which("apt-get") or os.geteuid() != 0:
        return False
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "-y", "--no-install-recommends", package]):
        try:
            subprocess.run(
                ["apt-get", *command], env=environment, capture_output=True, timeout=_INSTALL_S, check=True
            )
        except (subprocess.SubprocessError, OSError):
            return False
    return True
