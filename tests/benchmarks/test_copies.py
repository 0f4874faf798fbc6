"""The faults of push and pull in small: the whole campaign, with one kill of each."""

import subprocess
import sys

import pytest


@pytest.mark.kill
@pytest.mark.s3
@pytest.mark.slow
def test_copies_that_are_disturbed_end_whole() -> None:
    command = [sys.executable, "-m", "benchmarks.copies", "--kills", "1", "--blocks", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "push, killed" in done.stdout
