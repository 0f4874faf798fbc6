"""Experiment with students of soft labels: every kind of label teaches a student."""

from pathlib import Path

import pytest
import torch

from benchmarks.experiments.soft_students import KINDS, SoftStudentsConfig, Views, labels_of, trained_student

CONFIG = SoftStudentsConfig(data="", held_out="", teacher="", checkpoint="", passes=1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_learns_from_every_kind_of_label(kind: str, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    generator = torch.Generator().manual_seed(0)
    pixels_NCHW = torch.randint(0, 256, (256, 3, 32, 32), dtype=torch.uint8, generator=generator)
    logits_NC = 3 * torch.randn(256, 80, generator=generator)
    found = dict(zip((kind, f"{kind}, shared"), labels_of(KINDS[kind], logits_NC, logits_NC), strict=True))
    views = Views(pixels_NCHW, logits_NC)
    for name, part in {"views": views, "held out": views, **found}.items():
        torch.save(part, tmp_path / name)
    figures = trained_student(CONFIG, str(tmp_path), kind, 3.0, 0)
    torch.set_num_threads(threads)
    assert 0 <= figures["agreement"] <= 1
    assert 0 < figures["KL at 3"] < figures["KL at 1"] < 20
