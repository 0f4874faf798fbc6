"""The experiment with two teachers, in small."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.experiments.two_teachers import TwoTeachersConfig, run_experiment
from teacher_cache.errors import InputError


@pytest.mark.soak
def test_every_arm_is_trained_with_every_seed(tmp_path: Path) -> None:
    config = TwoTeachersConfig(
        out=str(tmp_path / "out"), seeds=1, teacher_epochs=1, student_epochs=1, losses=("soft",)
    )
    found = run_experiment(config)
    assert set(found["teachers"]) == {"a", "b"}
    assert set(found["students"]) == {"soft"}
    for by_arm in found["students"].values():
        assert {arm: len(values) for arm, values in by_arm.items()} == {"a": 1, "b": 1, "a and b": 1}
    with pytest.raises(InputError, match="is not empty"):
        run_experiment(config)
