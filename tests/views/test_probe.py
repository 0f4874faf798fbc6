import numpy as np
import pytest

from teacher_cache.errors import RecipeError
from teacher_cache.views import probe
from teacher_cache.views.ops import OPS, Canvas
from teacher_cache.views.probe import check_probe, library_versions, probe_digest
from teacher_cache.views.recipe import deit, deit3, evaluation, rrc


def test_probe_digests_are_pinned() -> None:
    assert probe_digest(rrc(32))[:16] == "04ad9f766ca2b6d2"
    assert probe_digest(evaluation(32))[:16] == "8c5783c268fc57d6"
    assert probe_digest(deit(32))[:16] == "706510ba34c99456"
    assert probe_digest(deit3(32))[:16] == "1bb1749a9e006a0b"


@pytest.mark.parametrize("name", OPS)
def test_every_op_is_probed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = probe_digest(deit(32))

    def other(canvas: Canvas, amount: float) -> None:
        OPS[name](canvas, amount)
        canvas.look_up(np.arange(256) ^ 1)

    monkeypatch.setattr(probe.ops, "OPS", {**OPS, name: other})
    assert probe_digest(deit(32)) != expected


def test_the_same_pixels_pass() -> None:
    check_probe(rrc(32), probe_digest(rrc(32)), {})


def test_other_pixels_are_refused_with_the_versions_of_both_sides() -> None:
    theirs = {**library_versions(), "torch": "1.0.0"}
    message = r"recipe 'rrc' renders other pixels(.|\n)*torch 1.0.0 -> (.|\n)*install torch==1.0.0"
    with pytest.raises(RecipeError, match=message):
        check_probe(rrc(32), "0" * 64, theirs)
