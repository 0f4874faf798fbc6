"""Build timm models by name for teachers and students, with pretrained or seeded random weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch

from teacher_cache.errors import ModelError, nearest


def resolve_device(name: str) -> torch.device:
    """Return the device of a name; "auto" is CUDA if available, else the CPU.

    Raises:
        ModelError: There is no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(
            f"--device {name}: {reason}", "Nothing can run on it.", "give cpu or cuda"
        ) from error
    return torch.device(name)


def _check_name(name: str) -> None:
    if name.startswith(("hf-hub:", "hf_hub:", "local-dir:")):
        return
    import timm

    base, _, tag = name.partition(".")
    if not timm.is_model(base):
        remedy = nearest(base, timm.list_models()) or "see timm.list_models()"
        raise ModelError(f"timm has no model {name!r}", "No model can be built.", remedy)
    if tag and name not in timm.list_pretrained(f"{base}.*"):
        known = ", ".join(timm.list_pretrained(f"{base}.*")) or "none with weights"
        raise ModelError(f"timm has no weights {name!r}", "No model can be built.", f"timm has: {known}")


def create_model(
    name: str,
    *,
    num_classes: int | None,
    img_size: int,
    pretrained: bool = False,
    new_head: bool = False,
    seed: int = 0,
    model_kwargs: Mapping[str, Any] | None = None,
) -> torch.nn.Module:
    """Build a timm model in evaluation mode on the CPU, without touching the global random state.

    Args:
        name: Name in timm, with or without a tag of pretrained weights, or hf-hub:owner/model.
        num_classes: Number of classes of the output; None takes the model's own.
        img_size: Side of the input in pixels; passed on to models of fixed input size.
        pretrained: Load weights from the hub.
        new_head: Give pretrained weights with another number of classes a new head, to be trained. False
            refuses such weights, because a random head would give random labels.
        seed: Seed of the random weights, without `pretrained`.
        model_kwargs: Further arguments of timm.create_model.

    Raises:
        ModelError: The name is unknown (the message offers the nearest), the weights are not available, the
            model does not take an argument, or pretrained weights have another number of classes.
    """
    import timm  # it takes seconds, and teachers of other kinds need none of it

    _check_name(name)
    kwargs = _checked(model_kwargs or {})
    if num_classes is not None and (new_head or not pretrained):
        kwargs["num_classes"] = num_classes
    config = timm.get_pretrained_cfg(name) if timm.is_model(name.partition(".")[0]) else None
    if config is not None and config.fixed_input_size:
        kwargs.setdefault("img_size", img_size)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        try:
            model = timm.create_model(name, pretrained=pretrained, **kwargs)
            if config is None and _has_fixed_size(model) and "img_size" not in kwargs:
                model = timm.create_model(name, pretrained=pretrained, img_size=img_size, **kwargs)
        except (TypeError, AssertionError) as error:
            raise ModelError(
                f"{name} does not take {kwargs}: {error}", "No model was built.", "correct --model-kwargs"
            ) from error
        except (OSError, RuntimeError) as error:
            raise ModelError(
                f"{name} cannot be loaded: {error}",
                *_not_loaded(name),
            ) from error
    if num_classes is not None and model.num_classes != num_classes:
        raise ModelError(
            f"the weights of {name} know {model.num_classes} classes, the dataset has {num_classes}",
            "A replaced head would be random, and so would its labels.",
            "give --checkpoint FILE of a model trained on this dataset, or --class-map FILE",
        )
    return model.eval()


def _not_loaded(name: str) -> tuple[str, str]:
    """Return what follows, and what helps, where weights cannot be loaded."""
    if name.startswith("local-dir:"):
        return "The folder's weights were not read.", "give a folder with config.json and weights of timm"
    return (
        "The weights have to be downloaded from the hub.",
        "check the network, give --checkpoint FILE, or --no-pretrained for random weights",
    )


def _checked(model_kwargs: Mapping[str, Any]) -> dict[str, Any]:
    if "num_classes" in model_kwargs:
        raise ModelError(
            f"--model-kwargs num_classes={model_kwargs['num_classes']}",
            "The dataset sets the number of classes; a head for another number would be random.",
            "remove num_classes from --model-kwargs",
        )
    return dict(model_kwargs)


def _has_fixed_size(model: torch.nn.Module) -> bool:
    config: Any = model.pretrained_cfg
    return bool(config.get("fixed_input_size"))


def normalization(model: torch.nn.Module) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and std per channel, of pixels in [0, 1], from a timm model's pretrained cfg."""
    config: Any = model.pretrained_cfg
    return tuple(config["mean"]), tuple(config["std"])


def weights_sha256(model: torch.nn.Module) -> str:
    """Return the sha256 over name, dtype, shape and bytes of every parameter and buffer, in order of name.

    Raises:
        ModelError: The state holds an object of another kind, such as a module's own class.
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        _add_state(digest, name, value)
    return digest.hexdigest()


def _add_state(digest: hashlib._Hash, name: str, value: Any) -> None:
    """Add an entry of a state to a digest: a tensor, or what quantised modules and extra states hold."""
    if isinstance(value, torch.Tensor) and value.is_quantized:
        is_per_channel = value.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric)
        grid = (
            (value.q_per_channel_scales(), value.q_per_channel_zero_points(), value.q_per_channel_axis())
            if is_per_channel
            else (value.q_scale(), value.q_zero_point())
        )
        _add_state(digest, name, (str(value.dtype), grid, value.int_repr()))
    elif isinstance(value, torch.Tensor):
        values = value.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.view(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        _add_state(digest, name, [part for pair in value.items() for part in pair])
    elif isinstance(value, tuple | list):
        digest.update(f"{name} {len(value)} parts\n".encode())
        for number, part in enumerate(value):
            _add_state(digest, f"{name}.{number}", part)
    elif value is None or isinstance(value, bool | int | float | str | bytes | torch.dtype):
        digest.update(f"{name} {value!r}\n".encode())
    else:
        raise ModelError(
            f"the state of the model has {name} of type {type(value).__name__}",
            "The labels of two teachers that differ in it could not be told apart.",
            "let get_extra_state return tensors, numbers, strings, bytes, or lists and dicts of them",
        )
