"""Teachers of Hugging Face transformers: image classifiers, with the statistics of their image processors."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from teacher_cache.errors import ModelError
from teacher_cache.exact.canonical import sha256_of
from teacher_cache.models.teacher_model import TeacherModel, TeacherRequest
from teacher_cache.views.finish import normalize

_NOT_OF_LOGITS = ("transformers_version", "torch_dtype", "dtype")
"""Fields of a config.json, beside those with an underscore, that never change a model's logits."""
_SEED = 0


class _Classifier(torch.nn.Module):
    """Classifier as a function from normalised RGB pixels (B, 3, H, W) to logits (B, C)."""

    def __init__(self, model: torch.nn.Module, *, is_bgr: bool, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.model, self._is_bgr, self._options = model, is_bgr, dict(options)

    def forward(self, inputs_BCHW: torch.Tensor) -> torch.Tensor:
        inputs_BCHW = inputs_BCHW.flip(1) if self._is_bgr else inputs_BCHW
        return self.model(pixel_values=inputs_BCHW, **self._options).logits


def build(request: TeacherRequest) -> TeacherModel:
    """Load OWNER/NAME[@REVISION] of the hub, or a folder, with AutoModelForImageClassification.

    Code of the repository is never run. A model made for another image size interpolates its position
    embeddings, if its class in transformers can do so.

    Raises:
        ModelError: transformers is not installed, or the model does not exist, lacks weights of its head,
            needs custom code, or has an image processor that does more than scale and shift each channel.
    """
    try:
        import transformers
    except ImportError as error:
        raise ModelError(
            f"--teacher hf:{request.name}: {error}", "It cannot be loaded.", 'pip install "teacher-cache[hf]"'
        ) from error
    if request.model_kwargs or request.checkpoint:
        odd = f"--model-kwargs {dict(request.model_kwargs)}" if request.model_kwargs else "--checkpoint"
        raise ModelError(
            f"{odd} with hf:{request.name}",
            "The repository or folder alone defines the model and its weights.",
            "remove the flag; for your own weights, give hf:FOLDER, as written by save_pretrained",
        )
    source, _, revision = (
        (request.name, "", "") if Path(request.name).exists() else request.name.partition("@")
    )
    where = {"revision": revision} if revision else {}
    try:
        document, _ = transformers.PretrainedConfig.get_config_dict(source, **where)
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False, **where)
        processor = transformers.AutoImageProcessor.from_pretrained(source, trust_remote_code=False, **where)
        model = _model(request, source, config, where)
    except ModelError:
        raise
    except Exception as error:  # transformers, torch and safetensors each raise errors of their own
        raise ModelError(
            f"--teacher hf:{request.name} cannot be loaded: {str(error).strip().partition(chr(10))[0]}",
            "The model has to be an image classifier with an image processor, on the hub or in a folder.",
            "give a folder that save_pretrained has written"
            if request.name.startswith(("/", ".", "~"))
            else "check the name, the network, and the files of the repository",
        ) from error
    problem = getattr(config, "problem_type", None)
    if problem in ("multi_label_classification", "regression"):
        raise ModelError(
            f"hf:{request.name} was trained for the problem_type {problem!r}",
            "A softmax over its outputs would be no distribution that it was trained to give.",
            "give a model that was trained with problem_type single_label_classification",
        )
    names = [tuple(config.id2label[number] for number in sorted(config.id2label))]
    mean, std, is_bgr = _statistics(processor, request.name)
    return TeacherModel(
        name=type(model).__name__ if Path(request.name).exists() else request.name,
        module=_Classifier(model, is_bgr=is_bgr, options=_options(model, config, request.img_size)).eval(),
        num_classes=int(config.num_labels),
        mean=mean,
        std=std,
        class_names=names if request.pretrained else (),
        settings={"config_sha256": sha256_of(_of_logits(document)), "is_bgr": is_bgr},
    )


def _of_logits(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a config.json that may change a model's logits."""
    return {
        name: value
        for name, value in document.items()
        if not name.startswith("_") and name not in _NOT_OF_LOGITS
    }


def _model(request: TeacherRequest, source: str, config: Any, where: Mapping[str, str]) -> torch.nn.Module:
    """Return the model in float32, with its weights, or with seeded random ones. Raises ModelError."""
    import transformers

    auto = transformers.AutoModelForImageClassification
    if not request.pretrained:
        if request.classes.names:
            config.num_labels = len(request.classes)
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(_SEED)
            return auto.from_config(config, trust_remote_code=False, dtype=torch.float32).eval()
    model, found = auto.from_pretrained(
        source,
        config=config,
        trust_remote_code=False,
        dtype=torch.float32,
        output_loading_info=True,
        **where,
    )
    absent = sorted({*found["missing_keys"], *(name for name, *_ in found["mismatched_keys"])})
    if absent:
        raise ModelError(
            f"hf:{request.name} has no weights for {', '.join(absent[:4])}",
            "They would be random, and so would the labels.",
            "give a model that was trained to classify images",
        )
    return model.eval()


def _options(model: torch.nn.Module, config: Any, img_size: int) -> dict[str, Any]:
    """Return forward arguments that interpolate positions where views do not have the model's own size."""
    own = getattr(config, "image_size", img_size)
    takes = inspect.signature(model.forward).parameters
    differs = own not in (img_size, [img_size, img_size], (img_size, img_size))
    return {"interpolate_pos_encoding": True} if differs and "interpolate_pos_encoding" in takes else {}


def _statistics(processor: Any, name: str) -> tuple[tuple[float, ...], tuple[float, ...], bool]:
    """Return mean and std of pixels in [0, 1], and whether the model takes BGR. Raises ModelError."""
    ones = (1.0, 1.0, 1.0)
    normalizes = getattr(processor, "do_normalize", False)
    mean, std = (processor.image_mean, processor.image_std) if normalizes else ((0.0, 0.0, 0.0), ones)
    factor = float(processor.rescale_factor) if getattr(processor, "do_rescale", False) else 1.0
    offset = 1.0 if getattr(processor, "rescale_offset", False) else 0.0
    means = tuple((m + offset) / (255 * factor) for m in np.broadcast_to(mean, 3).tolist())
    stds = tuple(s / (255 * factor) for s in np.broadcast_to(std, 3).tolist())
    is_bgr = bool(getattr(processor, "do_flip_channel_order", False))
    image_HWC = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    ours = normalize(torch.from_numpy(image_HWC).permute(2, 0, 1)[None], means, stds)
    ours = ours.flip(1) if is_bgr else ours
    try:
        found = processor(image_HWC, do_resize=False, do_center_crop=False, return_tensors="pt")
        theirs = found["pixel_values"]
    except (TypeError, ValueError, KeyError, RuntimeError):  # a processor of another interface
        theirs = torch.empty(0)
    if theirs.shape != ours.shape or not torch.allclose(theirs, ours, atol=1e-4):
        raise ModelError(
            f"{type(processor).__name__} of hf:{name} does more than scale and shift each channel",
            "The model would see other pixels than it was trained on.",
            "give a timm model as hf-hub:OWNER/NAME, without hf:; others as --teacher python:MODULE:FACTORY",
        )
    return means, stds, is_bgr
