"""Mutated sources, in small: `python -m benchmarks.fuzz` tries thousands."""

from __future__ import annotations

from benchmarks.fuzz import FuzzConfig, _benchmark


def test_every_mutation_ends_in_a_right_dataset_or_a_refusal() -> None:
    assert _benchmark(FuzzConfig(mutations=60, seed=7)) == 0
