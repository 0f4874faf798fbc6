"""Attacks, in small: `python -m benchmarks.attacks` tries thousands, and make soak some hundreds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("mutations", "requests", "pages"),
    [
        pytest.param(16, 0, False, marks=pytest.mark.slow),
        pytest.param(600, 4, True, marks=pytest.mark.soak),
    ],
)
def test_no_attack_succeeds(mutations: int, requests: int, pages: bool, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    command = [sys.executable, "-m", "benchmarks.attacks", f"--mutations={mutations}", f"--json={out}"]
    command += [f"--requests={requests}", "--pages" if pages else "--no-pages", "--processes=1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text())
    assert result["failures"] == []
    assert sum(result["documents"]["labels, with a key"].values()) >= mutations // 50
    if requests:
        assert sum(result["requests"].values()) > 400
