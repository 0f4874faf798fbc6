import numpy as np
import pytest

from teacher_cache.errors import RecipeError
from teacher_cache.views import probe
from teacher_cache.views.ops import OPS, Canvas
from teacher_cache.views.probe import check_probe, library_versions, probe_digest
from teacher_cache.views.recipe import deit, deit3, evaluation, rrc
from teacher_cache.views.sampling import ops_of, sample_view


def test_probe_digests_are_pinned() -> None:
    assert probe_digest(rrc(32))[:16] == "04ad9f766ca2b6d2"
    assert probe_digest(evaluation(32))[:16] == "8c5783c268fc57d6"
    assert probe_digest(deit(32))[:16] == "97db623905255c95"
    assert probe_digest(deit3(32))[:16] == "a4e7f5dbf6f42243"


def altered(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make one op draw other pixels than it does."""

    def other(canvas: Canvas, amount: float) -> None:
        OPS[name](canvas, amount)
        canvas.look_up(np.arange(256) ^ 1)

    monkeypatch.setattr(probe.ops, "OPS", {**OPS, name: other})


RECIPES = {"deit": deit(32), "deit3": deit3(32)}


@pytest.mark.parametrize(
    ("recipe", "name"), [(recipe, name) for recipe in RECIPES for name in sorted(ops_of(RECIPES[recipe]))]
)
def test_altering_an_op_that_a_recipe_emits_alters_its_digest(
    recipe: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = probe_digest(RECIPES[recipe])
    altered(name, monkeypatch)
    assert probe_digest(RECIPES[recipe]) != expected


@pytest.mark.parametrize(
    ("recipe", "name"),
    [(recipe, name) for recipe in RECIPES for name in sorted(set(OPS) - ops_of(RECIPES[recipe]))],
)
def test_altering_an_op_that_a_recipe_never_emits_leaves_its_digest(
    recipe: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = probe_digest(RECIPES[recipe])
    altered(name, monkeypatch)
    assert probe_digest(RECIPES[recipe]) == expected


def test_a_new_op_leaves_every_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {name: probe_digest(recipe) for name, recipe in RECIPES.items()}
    monkeypatch.setattr(probe.ops, "OPS", {**OPS, "a_new_op": OPS["invert"]})
    assert {name: probe_digest(recipe) for name, recipe in RECIPES.items()} == expected


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_op_of_a_recipe_is_sampled_and_no_other(recipe: str) -> None:
    views = (sample_view(RECIPES[recipe], "a", view, 40, 50) for view in range(2000))
    assert {op.name for view in views for op in view.ops} == ops_of(RECIPES[recipe])


def test_the_same_pixels_pass() -> None:
    check_probe(rrc(32), probe_digest(rrc(32)), {})


def test_other_pixels_are_refused_with_the_versions_of_both_sides() -> None:
    theirs = {**library_versions(), "torch": "1.0.0"}
    message = r"recipe 'rrc' renders other pixels(.|\n)*torch 1.0.0 -> (.|\n)*install torch==1.0.0"
    with pytest.raises(RecipeError, match=message):
        check_probe(rrc(32), "0" * 64, theirs)
