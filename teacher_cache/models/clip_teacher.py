"""Zero-shot teachers of open_clip: an image tower against one text embedding for each class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from teacher_cache.errors import ModelError
from teacher_cache.exact.canonical import sha256_of
from teacher_cache.labels.class_list import ClassList
from teacher_cache.models.class_knowledge import load_with_names, parse
from teacher_cache.models.teacher_model import TeacherModel, TeacherRequest
from teacher_cache.storage.local_copies import local_file

_SEED = 0
_CLASS = "{}"
"""Place of a class's name in a template, as in open_clip and CLIP's own lists of templates."""
_OF_TAG = ("mean", "std", "interpolation", "resize_mode")
"""Preprocessing settings of a tag, which are used with other weights of the model too."""
_BATCH_SIZE = 256
_BITS = 20
"""Bits of a rounded embedding, 1e-6: errors of 1e-14 between machines rarely change it (decisions/0023)."""


class _ZeroShot(torch.nn.Module):
    """Cosines of images (B, 3, H, W) and class embeddings (C, D), scaled as the model was trained."""

    def __init__(self, visual: torch.nn.Module, text_CD: torch.Tensor, scale: float, bias: float) -> None:
        super().__init__()
        self.visual = visual
        self.register_buffer("text_CD", text_CD)
        self.register_buffer("scale_bias", torch.tensor([scale, bias], dtype=torch.float32))

    def forward(self, inputs_BCHW: torch.Tensor) -> torch.Tensor:
        found = self.visual(inputs_BCHW)
        image_BD = found[0] if isinstance(found, tuple) else found  # CoCa's tower gives its tokens too
        with torch.autocast(inputs_BCHW.device.type, enabled=False):  # bfloat16 has steps of 1/8 at 16
            image_BD = torch.nn.functional.normalize(image_BD.float(), dim=-1)
            scale, bias = self.get_buffer("scale_bias")
            return scale * (image_BD @ self.get_buffer("text_CD").T) + bias


def build(request: TeacherRequest) -> TeacherModel:
    """Load MODEL/TAG of open_clip, or hf-hub:OWNER/NAME or local-dir:FOLDER, and embed the prompts.

    A class's embedding is the normalised mean of its prompts' normalised embeddings (Radford et al., 2021,
    section 3.1.4), computed in float64 and rounded to 20 bits, so that machines agree on its bits.

    Args:
        request: Request for the model; `prompts` is needed.

    Raises:
        ModelError: open_clip is not installed, the model does not exist, or the prompts do not fit the
            classes.
    """
    try:
        import open_clip  # noqa: F401
    except ImportError as error:
        raise ModelError(
            f"--teacher clip:{request.name}: {error}",
            "The model cannot be loaded.",
            'pip install "teacher-cache[clip]"',
        ) from error
    _check(request)
    prompts = read_prompts(request.prompts or "", request.classes)
    model, tokenizer, config = _created(request)
    if request.checkpoint is not None:
        load_with_names(model, request.checkpoint, ClassList(()))
    model.eval().requires_grad_(False)
    visual, bias = model.visual, getattr(model, "logit_bias", None)
    scale, bias = float(model.logit_scale.exp()), 0.0 if bias is None else float(bias)
    text_CD = _text_embeddings(model, tokenizer, prompts, request.device)
    return TeacherModel(
        name=type(visual).__name__ if request.name.startswith("local-dir:") else request.name,
        module=_ZeroShot(model.cpu().float().visual, text_CD, scale, bias).eval(),
        num_classes=len(prompts),
        mean=visual.image_mean,
        std=visual.image_std,
        class_names=(request.classes.names,),
        settings={
            "config_sha256": sha256_of(config),
            "prompts_sha256": sha256_of([list(texts) for texts in prompts]),
        },
        classes_are_known=True,
    )


def _created(request: TeacherRequest) -> tuple[Any, Any, list[Any]]:
    """Return the model, its tokenizer, and the settings that determine its logits. Raises ModelError."""
    import open_clip

    is_place = request.name.startswith(("hf-hub:", "local-dir:"))
    name, tag = request.name, ""
    if not is_place and "/" in request.name:
        name, _, tag = request.name.rpartition("/")
    loads = request.pretrained and request.checkpoint is None
    try:
        config, about = open_clip.get_model_config(name), open_clip.get_pretrained_cfg(name, tag)
        of_tag = {field: about[field] for field in _OF_TAG if field in about}
        has_quick_gelu = bool(about.get("quick_gelu"))
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(_SEED)
            model: Any = open_clip.create_model(
                name,
                pretrained=tag if tag and loads else None,
                load_weights=loads,
                require_pretrained=loads,
                force_image_size=request.img_size,
                force_quick_gelu=has_quick_gelu,
                force_preprocess_cfg=of_tag or None,
                precision="fp32",
            )
        return model, open_clip.get_tokenizer(name), [config, has_quick_gelu]
    except Exception as error:  # open_clip, torch and safetensors each raise errors of their own
        raise ModelError(
            f"--teacher clip:{request.name} cannot be loaded: {str(error).strip().partition(chr(10))[0]}",
            "No model can be built.",
            "give a folder with open_clip_config.json and weights"
            if request.name.startswith("local-dir:")
            else "give a clip:MODEL/TAG that open_clip.list_pretrained() lists, and check the network",
        ) from error


def read_prompts(file: str, classes: ClassList) -> list[tuple[str, ...]]:
    """Return the prompts of each class.

    Args:
        file: Text file with a template for each line, in which {} stands for the class's name; or a JSON file
            that maps each class to a list of prompts.

    Raises:
        ModelError: The file does not exist, a template has no {}, or its classes are not those of `classes`.
    """
    try:
        with local_file(file) as path:
            text = Path(path).read_text(encoding="utf-8")
        document = parse(text, file) if file.endswith(".json") else None
    except (OSError, ValueError) as error:
        raise ModelError(
            f"--prompts {file}: {error}", "No prompts were read.", "give a text or JSON file"
        ) from error
    if isinstance(document, Mapping):
        lists = {name: [texts] if isinstance(texts, str) else texts for name, texts in document.items()}
        odd = sorted(lists.keys() ^ set(classes.names))
        empty = [name for name, texts in lists.items() if not _are_prompts(texts)]
        if odd or empty:
            raise ModelError(
                f"--prompts {file}: {(odd + empty)[0]!r} is "
                + (
                    "missing from the file or dataset" if odd else f"without prompts, or with {_CLASS} in one"
                ),
                f"Each of the dataset's {len(classes):,} classes needs one prompt or more.",
                "list prompts for every class, under the name that it has in the dataset",
            )
        return [tuple(lists[name]) for name in classes.names]
    templates = [line.strip() for line in text.splitlines() if line.strip()]
    odd = [template for template in templates if template.count(_CLASS) != 1]
    if document is not None or odd or not templates:
        raise ModelError(
            f"--prompts {file}: {odd[0]!r} names no class" if odd else f"--prompts {file} has no templates",
            "Every class would have the same embedding.",
            'write one template per line, such as "a photo of a {}.", or a .json file of prompts by class',
        )
    return [tuple(template.replace(_CLASS, name) for template in templates) for name in classes.names]


def _check(request: TeacherRequest) -> None:
    wrong = f"--model-kwargs {dict(request.model_kwargs)}" if request.model_kwargs else ""
    if wrong or request.prompts is None or not request.classes.names:
        raise ModelError(
            f"--teacher clip:{request.name} {f'with {wrong}' if wrong else 'without --prompts'}",
            "CLIP teachers take their classes from --prompts, and no --model-kwargs.",
            "remove --model-kwargs" if wrong else "give --prompts FILE",
        )


def _are_prompts(value: Any) -> bool:
    are_texts = isinstance(value, list) and bool(value) and all(isinstance(text, str) for text in value)
    return are_texts and not any(_CLASS in text for text in value)


@torch.no_grad()
def _text_embeddings(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[str]], device: torch.device
) -> torch.Tensor:
    """Return class embeddings, float32 (C, D), on the CPU; the model stays on `device` in float64."""
    model.to(device).double()
    normalized = torch.nn.functional.normalize
    texts = [text for of_class in prompts for text in of_class]
    parts = [
        normalized(model.encode_text(tokenizer(texts[start : start + _BATCH_SIZE]).to(device)), dim=-1)
        for start in range(0, len(texts), _BATCH_SIZE)
    ]
    by_class = torch.cat(parts).split([len(of_class) for of_class in prompts])
    text_CD = normalized(torch.stack([of_class.mean(0) for of_class in by_class]), dim=-1).cpu()
    mantissa_CD, exponent_CD = text_CD.frexp()
    return torch.ldexp((mantissa_CD * 2**_BITS).round() / 2**_BITS, exponent_CD).float()
