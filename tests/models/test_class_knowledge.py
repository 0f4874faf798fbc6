"""Names that weights bring, compared with a dataset's classes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from support import built_teacher
from timm.data import ImageNetInfo

from teacher_cache.errors import ModelError
from teacher_cache.labels.class_list import ClassList
from teacher_cache.models.checkpoint import load_weights
from teacher_cache.models.class_knowledge import check_names, names_of_file, names_of_hub
from teacher_cache.models.create import create_model, weights_sha256

PETS = ("ant", "bee", "cat", "dog")
WNIDS = tuple(ImageNetInfo("imagenet-1k").label_names())


def model(num_classes: int = 4) -> torch.nn.Module:
    return create_model("test_resnet", num_classes=num_classes, img_size=32)


@pytest.mark.parametrize(
    "names",
    [
        {"class_to_idx": {"bee": 1, "ant": 0, "dog": 3, "cat": 2}},
        {"classes": list(PETS)},
        {"id2label": {"0": "Ant", "1": "bee", "2": "cat", "3": "dog"}},
        {"label2id": {"ant": 0, "bee": 1, "cat": 2, "dog": 3}},
        {"hyper_parameters": {"class_names": PETS}},
        {"args": argparse.Namespace(class_names=list(PETS))},
    ],
)
def test_a_checkpoints_own_list_is_found_and_compared(names: dict, tmp_path: Path) -> None:
    file = str(tmp_path / "weights.pth")
    torch.save({"state_dict": model().state_dict(), **names}, file)
    assert check_names(names_of_file(file), ClassList(PETS), file) is True
    with pytest.raises(
        ModelError, match=r"2 of the dataset's 4 classes under other ids: 'dog' is class 3 of"
    ):
        check_names(names_of_file(file), ClassList(("ant", "bee", "dog", "cat")), file)


def test_a_config_beside_the_weights_is_read(tmp_path: Path) -> None:
    torch.save(model().state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({"label_names": PETS, "num_classes": 4}))
    assert names_of_file(str(tmp_path / "pytorch_model.bin")) == [PETS]


def test_timms_synsets_are_those_of_imagenet_weights() -> None:
    weights = timm.create_model("regnety_002.pycls_in1k")
    known = names_of_hub(weights)
    assert check_names(known, ClassList(WNIDS), "regnety_002") is True
    described = tuple(f"{name.split(',')[0]}" for name in known[1])
    if len(set(described)) == 1000:
        assert check_names(known, ClassList(described), "regnety_002") is True
    with pytest.raises(ModelError, match=r"1,000 of the dataset's 1,000 classes under other ids"):
        check_names(known, ClassList((*WNIDS[1:], WNIDS[0])), "regnety_002")


@pytest.mark.parametrize("classes", [("0", "1", "2", "3"), ("fourmi", "abeille", "chat", "chien")])
def test_names_that_tell_nothing_are_left_to_the_agreement(classes: tuple[str, ...]) -> None:
    assert check_names([PETS], ClassList(classes), "a model") is False
    assert check_names([PETS[:3]], ClassList(PETS), "a model") is False


def test_a_teacher_of_another_order_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    file = str(tmp_path / "weights.pth")
    torch.save({"state_dict": model().state_dict(), "classes": list(PETS)}, file)
    options = {"img_size": 32, "checkpoint": file}
    assert built_teacher("test_resnet", classes=ClassList(PETS), **options).classes_are_known
    with pytest.raises(ModelError, match=r"'dog' is class 3 of the model, but 0 (.|\n)*--allow-disagreement"):
        built_teacher("test_resnet", classes=ClassList(PETS[::-1]), **options)
    allowed = built_teacher("test_resnet", classes=ClassList(PETS[::-1]), compare_names=False, **options)
    assert not allowed.classes_are_known


@pytest.mark.parametrize("prefix", ["", "model.", "net.backbone.", "module.", "_orig_mod."])
def test_weights_under_any_one_prefix_load(prefix: str, tmp_path: Path) -> None:
    file = str(tmp_path / "weights.ckpt")
    weights = {f"{prefix}{name}": tensor for name, tensor in model().state_dict().items()}
    torch.save({"state_dict": weights, "metric": np.float64(81.2), "out": Path("x")}, file)
    loaded = create_model("test_resnet", num_classes=4, img_size=32, seed=9)
    load_weights(loaded, file, ClassList(PETS))
    assert weights_sha256(loaded) == weights_sha256(model())


def test_a_file_that_would_run_code_is_refused_without_torchs_advice_to_run_it(tmp_path: Path) -> None:
    file = str(tmp_path / "whole.pt")
    torch.save(model(), file)
    with pytest.raises(ModelError, match="holds more than weights") as refused:
        load_weights(model(), file, ClassList(PETS))
    assert "weights_only=False" not in str(refused.value)


def test_safetensors_without_a_suffix_are_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in model().state_dict().items()}, tmp_path / "blob")
    load_weights(model(), str(tmp_path / "blob"), ClassList(PETS))


def test_tuples_among_the_arguments_are_described_as_lists() -> None:
    options = {"classes": ClassList(PETS), "img_size": 32, "pretrained": False}
    specs = [
        built_teacher("test_resnet", model_kwargs={"layers": layers}, **options).spec
        for layers in ((1, 1, 1, 1), [1, 1, 1, 1])
    ]
    assert specs[0] == specs[1]
    assert specs[0].to_dict()["model_kwargs"] == {"layers": [1, 1, 1, 1]}
    with pytest.raises(ModelError, match="--model-kwargs"):
        built_teacher("test_resnet", model_kwargs={"layers": {1}}, **options)
