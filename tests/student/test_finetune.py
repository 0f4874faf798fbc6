"""Weights that training begins with: other image sizes, other classes, and to and from plain timm."""

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F  # noqa: N812

from student.checkpoint import hub_settings, load_student, save_weights
from student.cli import main
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import ModelError
from teacher_cache.labels.class_list import ClassList
from teacher_cache.models.checkpoint import begin_with
from teacher_cache.models.create import create_model
from teacher_cache.storage.store import Store

NAME = "deit_tiny_distilled_patch16_224"
KWARGS = {"patch_size": 8, "embed_dim": 48, "depth": 1, "num_heads": 3}
SMALL = ("--model-kwargs", *(f"{name}={value}" for name, value in KWARGS.items()))


def model(img_size: int, num_classes: int = 3, seed: int = 0) -> torch.nn.Module:
    return create_model(NAME, num_classes=num_classes, img_size=img_size, seed=seed, model_kwargs=KWARGS)


def saved(folder: Path, of: torch.nn.Module, class_name: str) -> str:
    about = {"classes_sha256": ClassList((class_name,)).sha256}
    save_weights(Store(folder), "weights.safetensors", of, about)
    return str(folder / "weights.safetensors")


def test_positions_are_interpolated_bicubically_and_tokens_kept(tmp_path: Path) -> None:
    small, large = model(32, seed=1), model(64, seed=2)
    assert begin_with(large, saved(tmp_path, small, "a"), ClassList(("a",))) == []
    before, after = small.pos_embed.detach().double(), large.pos_embed.detach().double()
    assert torch.equal(before[:, :2], after[:, :2])  # of the class token and the distillation token
    grid_1CHW = before[:, 2:].reshape(1, 4, 4, 48).permute(0, 3, 1, 2)
    expected_1CHW = F.interpolate(grid_1CHW, size=(8, 8), mode="bicubic", align_corners=False)
    expected = expected_1CHW.permute(0, 2, 3, 1).reshape(1, 64, 48)
    torch.testing.assert_close(after[:, 2:], expected, rtol=0, atol=1e-6)
    for name, value in small.state_dict().items():
        if name != "pos_embed":
            assert torch.equal(value, large.state_dict()[name]), name


def test_a_head_stays_only_for_the_same_classes(tmp_path: Path) -> None:
    heads = ["head.weight", "head.bias", "head_dist.weight", "head_dist.bias"]
    file = saved(tmp_path, model(32, seed=1), "these classes")
    assert begin_with(model(32), file, ClassList(("these classes",))) == []
    assert begin_with(model(32), file, ClassList(("others, as many",))) == heads
    other = model(32, num_classes=7)
    fresh = {name: value.clone() for name, value in other.state_dict().items()}
    assert begin_with(other, file, ClassList(("others",))) == heads
    assert all(torch.equal(other.state_dict()[name], fresh[name]) for name in heads)
    assert not torch.equal(other.cls_token, fresh["cls_token"])


def test_weights_of_plain_timm_begin_a_run_and_give_the_same_logits(tmp_path: Path) -> None:
    plain = timm.create_model(NAME, num_classes=3, img_size=32, **KWARGS).eval()
    safetensors.torch.save_file(plain.state_dict(), tmp_path / "timm.safetensors")
    torch.save({"model": plain.state_dict()}, tmp_path / "deit.pth")  # as DeiT's own code writes it
    inputs_BCHW = torch.randn(2, 3, 32, 32)
    for name in ("timm.safetensors", "deit.pth"):
        ours = model(32, seed=5)
        assert begin_with(ours, str(tmp_path / name), ClassList(("any",))) == []
        with torch.inference_mode():
            assert torch.equal(ours(inputs_BCHW), plain(inputs_BCHW))


@pytest.mark.parametrize("what", ["missing", "another depth", "one head"])
def test_weights_of_another_model_are_said(what: str, tmp_path: Path) -> None:
    file = str(tmp_path / "nothing.safetensors")
    if what == "another depth":
        other = create_model(NAME, num_classes=3, img_size=32, model_kwargs={**KWARGS, "depth": 2})
        file = saved(tmp_path, other, "a")
    if what == "one head":
        file = saved(
            tmp_path,
            create_model("deit_tiny_patch16_224", num_classes=3, img_size=32, model_kwargs=KWARGS),
            "a",
        )
    with pytest.raises(ModelError, match="is not a file" if what == "missing" else "does not fit"):
        begin_with(model(32), file, ClassList(("a",)))


@pytest.mark.slow
def test_fine_tuning_at_another_size_and_transfer(data: str, tmp_path: Path) -> None:
    base = ["train", f"--data={data}", "--steps=2", "--batch-size=8", *SMALL]
    assert main([*base, "--img-size=32", f"--output={tmp_path / 'small'}"]) == 0
    begin = f"--finetune={tmp_path / 'small' / 'last.safetensors'}"
    assert main([*base, "--img-size=48", begin, "--lr=1e-12", f"--output={tmp_path / 'large'}"]) == 0
    classes = PackedDataset(data).info.class_list
    small, large = (
        load_student(str(tmp_path / n / "last.safetensors"), classes)[0] for n in ("small", "large")
    )
    torch.testing.assert_close(small.head.weight, large.head.weight)
    assert large.pos_embed.shape == (1, 2 + 36, 48)


def test_what_is_pushed_to_the_hub_is_built_by_plain_timm(tmp_path: Path) -> None:
    """All but the upload: timm writes the files it would upload, and reads them again."""
    ours = model(32, seed=3)
    timm.models.save_for_hf(ours, str(tmp_path), **hub_settings(ours, KWARGS, 32, 0.9))
    plain = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    inputs_BCHW = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(plain(inputs_BCHW), ours(inputs_BCHW))
    assert timm.data.resolve_model_data_config(plain)["crop_pct"] == 0.9
