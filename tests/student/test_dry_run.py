"""What a run will be is said before its first step, and a dry run does nothing else."""

from pathlib import Path

import pytest
import torch

from student.cli import main
from student.model import model_cost
from teacher_cache.models.create import create_model

SMALL = ("--model-kwargs", "patch_size=8", "embed_dim=48", "depth=2", "num_heads=3")


def said_of(data: str, output: Path, capsys: pytest.CaptureFixture, *flags: str) -> str:
    words = ["train", "--dry-run", f"--data={data}", f"--output={output}", *flags, *SMALL]
    assert main(words) == 0
    assert not output.exists()
    return capsys.readouterr().out


def test_it_says_batch_rate_steps_views_and_memory(
    data: str, labels: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = ("--distillation=hard", f"--labels={labels}", "--batch-size=8", "--grad-accum-steps=2")
    said = said_of(data, tmp_path / "out", capsys, *flags, "--epochs=12")
    assert "effective batch  16 views: 8 x 2 x 1" in said
    assert "learning rate    1.5625e-05 after 4 updates of warm-up" in said  # 5e-4 * 16 / 512
    assert "updates          24, 4 batches an epoch" in said
    assert "3 of each image in 12.0 epochs; the archive has 0:3; each is seen 4.0 times" in said
    assert "model            deit_tiny_distilled_patch16_224, " in said
    assert "memory           about 0." in said


def test_views_that_are_missing_are_said_before_the_first_step(
    data: str, labels: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = ("--distillation=hard", f"--labels={labels}", "--batch-size=8", "--views=0:5")
    words = ["train", "--dry-run", f"--data={data}", f"--output={tmp_path / 'out'}", *flags, *SMALL]
    assert main(words) == 2
    assert "holds views 0:3, not 3:5" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_says_it_too_before_its_first_step(
    data: str, labels: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = ("--distillation=hard", f"--labels={labels}", "--batch-size=8", "--epochs=6")
    assert main(["train", f"--data={data}", f"--output={tmp_path / 'out'}", *flags, *SMALL]) == 0
    before, _, after = capsys.readouterr().err.partition("train 24/24 updates")
    assert "the archive has 0:3; each is seen 2.0 times, in fresh order" in before
    assert "effective batch  8 views" in before
    assert after


@pytest.mark.slow
def test_the_cost_of_a_model_is_counted() -> None:
    model = create_model("deit_tiny_distilled_patch16_224", num_classes=1000, img_size=224)
    cost = model_cost(model, 224, None)
    assert cost.num_parameters == 5_910_800
    # timm's results tell 1.27 GMACs: twice that is a forward pass, three of which are a step; the products of
    # attention, which they leave out, are a fifth more
    assert cost.flops == pytest.approx(3 * 2 * 1.27e9, rel=0.25)
    assert 4 * cost.num_parameters < cost.activation_bytes < 100e6
    smaller = model_cost(model, 224, torch.bfloat16)
    assert smaller.activation_bytes < cost.activation_bytes
    assert cost.memory_bytes(2, has_ema=True) - cost.memory_bytes(1, has_ema=True) == cost.activation_bytes
    assert cost.memory_bytes(1, has_ema=True) - cost.memory_bytes(1, has_ema=False) == 4 * 5_910_800
