"""Fixture of the tests of sharing: a key for signatures."""

from pathlib import Path

import pytest
from support import new_key


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return new_key(tmp_path)
