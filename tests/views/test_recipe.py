import dataclasses
import re
from pathlib import Path

import pytest
import yaml

from teacher_cache.errors import RecipeError
from teacher_cache.views.recipe import (
    NAMED,
    RandomResizedCrop,
    Recipe,
    deit,
    deit3,
    evaluation,
    from_dict,
    load_recipe,
    rrc,
)
from teacher_cache.views.recipe_ops import OPS

RRC = {"version": 1, "name": "rrc", "img_size": 32, "ops": [{"op": "random_resized_crop"}]}


def test_identities_are_pinned() -> None:
    assert {name: named(224).sha256[:16] for name, named in NAMED.items()} == {
        "deit": "9adc03c30fc5b77d",
        "deit3": "cb706c3dd7ae9bf2",
        "rrc": "09f4ad636ed85b2e",
        "eval": "bcd90d44015283de",
    }


@pytest.mark.parametrize(
    "recipe",
    [rrc(64), evaluation(64, 0.9), deit(64), deit3(64)],
    ids=lambda recipe: recipe.name,
)
def test_a_recipe_comes_back_from_its_data(recipe: Recipe) -> None:
    assert from_dict(recipe.to_dict()) == recipe


def test_the_name_is_no_part_of_the_identity_and_all_else_is() -> None:
    base = rrc(64)
    assert Recipe("other", 64, base.ops).sha256 == base.sha256
    assert rrc(65).sha256 != base.sha256
    assert Recipe("rrc", 64, (RandomResizedCrop(scale=(0.09, 1.0)), *base.ops[1:])).sha256 != base.sha256
    assert Recipe("rrc", 64, base.ops[:1]).sha256 != base.sha256


def test_defaults_that_are_written_out_are_the_same_recipe() -> None:
    spelled = {**RRC, "ops": [{"op": "random_resized_crop", "scale": [0.08, 1], "ratio": [0.75, 4 / 3]}]}
    assert from_dict(spelled).sha256 == from_dict(RRC).sha256


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "recipe version 2"),
        ({"img_sise": 32}, "unknown field 'img_sise' in recipe(.|\n)*nearest: img_size"),
        ({"img_size": 0}, "img_size = 0"),
        ({"img_size": "32"}, "img_size = '32'"),
        ({"ops": []}, "ops = "),
        ({"ops": {}}, "ops = "),
        ({"ops": [{"op": "random_resize_crop"}]}, "unknown op(.|\n)*nearest: random_resized_crop"),
        ({"ops": [{"op": "random_resized_crop", "scales": [0, 1]}]}, "unknown field 'scales'(.|\n)*scale"),
        ({"ops": [{"op": "random_resized_crop", "scale": [0.5, 0.1]}]}, "scale = "),
        ({"ops": [{"op": "random_resized_crop", "scale": [0.0, 1.0]}]}, "scale = "),
        ({"ops": [{"op": "random_resized_crop", "scale": "big"}]}, "scale = 'big'"),
        ({"ops": [{"op": "random_resized_crop", "ratio": [0.5]}]}, "ratio = "),
        ({"ops": [{"op": "resize_center_crop", "crop_pct": 1.5}]}, "crop_pct = 1.5"),
        ({"ops": [{"op": "horizontal_flip"}]}, "ops = "),
        ({"ops": [{"op": "random_resized_crop", "scale": 0.5}]}, "scale = 0.5"),
        ({"ops": [{"op": ["random_resized_crop"]}]}, "unknown op"),
        ({"ops": [*RRC["ops"], {"op": "horizontal_flip", "probability": [0.5]}]}, "probability = "),
        ({"ops": [*RRC["ops"], {"op": "horizontal_flip", "probability": 2}]}, "probability = 2"),
        ({"ops": [*RRC["ops"], *RRC["ops"]]}, "ops = "),
        ({"ops": [*RRC["ops"], {"op": "rand_augment"}, {"op": "horizontal_flip"}]}, "ops = "),
        ({"ops": [*RRC["ops"], {"op": "random_erasing"}, {"op": "random_erasing"}]}, "ops = "),
        ({"ops": [*RRC["ops"], {"op": "mixup_cutmix"}, {"op": "random_erasing"}]}, "ops = "),
        ({"ops": [*RRC["ops"], {"op": "rand_augmint"}]}, "'rand_augmint'(.|\n)*nearest: rand_augment"),
        ({"ops": [*RRC["ops"], {"op": "rand_augment", "magnitud": 9}]}, "nearest: magnitude"),
        ({"ops": [*RRC["ops"], {"op": "rand_augment", "magnitude": 11}]}, "magnitude = 11.0(.|\n)*0 to 10"),
        ({"ops": [*RRC["ops"], {"op": "rand_augment", "magnitude": "9"}]}, "magnitude = '9'(.|\n)*a number"),
        ({"ops": [*RRC["ops"], {"op": "rand_augment", "magnitude": True}]}, "magnitude = True"),
        (
            {"ops": [*RRC["ops"], {"op": "rand_augment", "num_ops": 2.0}]},
            "num_ops = 2.0(.|\n)*a whole number",
        ),
        ({"ops": [*RRC["ops"], {"op": "rand_augment", "fill": [1, 2]}]}, "fill = (.|\n)*three numbers"),
        ({"ops": [*RRC["ops"], {"op": "rand_augment", "fill": [1, 2, 256]}]}, "fill = "),
        ({"ops": [*RRC["ops"], {"op": "rand_augment", "fill": [1, 2, 3.5]}]}, "fill = (.|\\n)*whole"),
        ({"ops": [*RRC["ops"], {"op": "mixup_cutmix", "mixup_alpha": 1e-9}]}, "mixup_alpha = 1e-09"),
        ({"ops": [*RRC["ops"], {"op": "color_jitter", "contrast": -0.1}]}, "color_jitter.contrast = -0.1"),
        ({"ops": [*RRC["ops"], {"op": "three_augment", "blur_radius": [2, 1]}]}, "blur_radius = "),
        ({"ops": [*RRC["ops"], {"op": "random_erasing", "mode": "pixels"}]}, "'pixels'(.|\n)*pixel or const"),
        ({"ops": [*RRC["ops"], {"op": "random_erasing", "mode": 3}]}, "mode = 3(.|\n)*a name"),
        ({"ops": [*RRC["ops"], {"op": "mixup_cutmix", "mixup_alpha": 0, "cutmix_alpha": 0}]}, "left out"),
        ({"ops": [*RRC["ops"], {"op": "mixup_cutmix", "block_rows": 1}]}, "block_rows = 1"),
        ({"ops": [{"op": "resize_random_crop", "padding_px": -1}]}, "padding_px = -1"),
    ],
)
def test_what_is_not_valid_is_named(change: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        from_dict({**RRC, **change})


def test_a_file_is_read_and_its_size_can_be_overridden(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(RRC))
    assert load_recipe(str(file), None) == from_dict(RRC)
    assert load_recipe(str(file), 48).img_size == 48


def test_names_are_known_or_the_nearest_is_offered(tmp_path: Path) -> None:
    assert load_recipe("rrc", None) == rrc(224)
    with pytest.raises(RecipeError, match=r"unknown recipe 'rcc'(.|\n)*nearest: rrc"):
        load_recipe("rcc", None)
    with pytest.raises(RecipeError, match="cannot be read"):
        load_recipe(str(tmp_path / "none.yaml"), None)


@pytest.mark.parametrize("name", NAMED)
def test_the_documents_yaml_is_the_named_recipe(name: str, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
    (text,) = re.findall(rf"```yaml\n(name: {name}\n.*?)```", page, re.DOTALL)
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    assert load_recipe(str(file), None).sha256 == NAMED[name](224).sha256


def test_the_document_writes_out_every_field_of_every_op() -> None:
    page = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
    written = [
        op for text in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) for op in yaml.safe_load(text)["ops"]
    ]
    assert {op["op"] for op in written} == set(OPS)
    for op in written:
        assert set(op) == {"op", *(field.name for field in dataclasses.fields(OPS[op["op"]]))}
