"""The digest of a model's weights covers what quantised modules and extra states hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from teacher_cache.errors import ModelError
from teacher_cache.models.create import weights_sha256

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


class WithExtra(torch.nn.Linear):
    def __init__(self, extra: Any) -> None:
        super().__init__(2, 2, bias=False)
        torch.nn.init.ones_(self.weight)
        self._extra = extra

    def get_extra_state(self) -> Any:
        return self._extra


def quantised(gain: float, bias: float, dtype: torch.dtype = torch.qint8) -> torch.nn.Module:
    model = torch.nn.Sequential(torch.nn.Linear(4, 3))
    with torch.no_grad():
        model[0].weight.copy_(torch.linspace(-gain, gain, 12).reshape(3, 4))
        model[0].bias.fill_(bias)
    quantize = pytest.importorskip("torch.ao.quantization", reason="torch 2.10 and later leave it to torchao")
    return quantize.quantize_dynamic(model.eval(), {torch.nn.Linear}, dtype=dtype)


def test_a_quantised_model_is_told_from_others_by_weights_scale_bias_and_type() -> None:
    models = [quantised(1, 0), quantised(2, 0), quantised(1, 1), quantised(1, 0, torch.float16)]
    assert len({weights_sha256(model) for model in models}) == len(models)
    assert weights_sha256(quantised(1, 0)) == weights_sha256(quantised(1, 0))


def test_channels_of_their_own_scale_are_part_of_the_digest() -> None:
    found = set()
    for scales in ([0.1, 0.2], [0.1, 0.3]):
        weight = torch.quantize_per_channel(
            torch.tensor([[1.0], [2.0]]), torch.tensor(scales), torch.tensor([0, 0]), 0, torch.qint8
        )
        found.add(weights_sha256(WithExtra(weight)))
    assert len(found) == 2


@pytest.mark.parametrize("extra", [{"scale": 8}, [1, "a", None], b"bytes", torch.zeros(2), (True, 2.5)])
def test_an_extra_state_of_plain_values_is_part_of_the_digest(extra: Any) -> None:
    assert weights_sha256(WithExtra(extra)) == weights_sha256(WithExtra(extra))
    assert weights_sha256(WithExtra(extra)) != weights_sha256(WithExtra({"scale": 9}))


def test_an_extra_state_of_another_kind_is_refused() -> None:
    with pytest.raises(ModelError, match="extra_state of type object"):
        weights_sha256(WithExtra(object()))
