"""Named runs: each is a function that returns flags, with hardware, hours and accuracy in its docstring.

`student train --run NAME --data ... --labels ... --output ...` starts one; flags after NAME override its
own. `student runs` lists all. Hours and accuracies are marked "published", with the source, or "measured".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Flags = Mapping[str, Any]


def _deit(size: str) -> dict[str, Any]:
    """Return flags of Touvron et al., Table 9: 300 epochs, 1,024 views an update, 128 on each of 8 GPUs."""
    return {
        "model": f"deit_{size}_distilled_patch16_224",
        "distillation": "hard",
        "epochs": 300,
        "batch_size": 128,
        "drop_path": 0.1,
        "model_ema": True,
        "workers": 8,
        "torchcompile": "inductor",
    }


def deit_tiny_distilled_in1k() -> Flags:
    """DeiT-Ti with the distillation token, hard labels of RegNetY-16GF, ImageNet-1k at 224 px.

    Hardware: 8 GPUs, torchrun --nproc-per-node 8 -m student.cli train --run ...
    Hours: not measured.
    Accuracy: 74.5 % published (Touvron et al., Table 3, both heads).
    """
    return _deit("tiny")


def deit_small_distilled_in1k() -> Flags:
    """DeiT-S with the distillation token, hard labels of RegNetY-16GF, ImageNet-1k at 224 px.

    Hardware: 8 GPUs, torchrun --nproc-per-node 8 -m student.cli train --run ...
    Hours: not measured.
    Accuracy: 81.2 % published (Touvron et al., Table 3, both heads).
    """
    return _deit("small")


def deit_base_distilled_in1k() -> Flags:
    """DeiT-B with the distillation token, hard labels of RegNetY-16GF, ImageNet-1k at 224 px.

    Hardware: 8 GPUs, torchrun --nproc-per-node 8 -m student.cli train --run ...
    Hours: 53 published (Touvron et al.) for 8 V100, without a teacher; not measured here.
    Accuracy: 83.4 % published (Touvron et al., Table 3, both heads).
    """
    return _deit("base")


def deit_base_distilled_384_in1k() -> Flags:
    """DeiT-B fine-tuned at 384 px: add --finetune, and --labels that the teacher made at 384 px.

    Hardware: 16 GPUs, torchrun over 2 machines (DeiT's README: --lr 5e-6, weight decay 1e-8, 30 epochs).
    Hours: not measured.
    Accuracy: 84.5 % published (Touvron et al., Table 3, both heads).
    """
    return {
        **_deit("base"),
        "epochs": 30,
        "batch_size": 32,
        "lr": 5e-6,
        "min_lr": 5e-6,
        "weight_decay": 1e-8,
    }


def deit_tiny_in1k() -> Flags:
    """DeiT-Ti without a teacher, ImageNet-1k at 224 px: baseline of the other runs; leave --labels out.

    Hardware: 8 GPUs, torchrun --nproc-per-node 8 -m student.cli train --run ...
    Hours: not measured.
    Accuracy: 72.2 % published (Touvron et al., Table 3).
    """
    return {**_deit("tiny"), "model": "deit_tiny_patch16_224", "distillation": "none", "recipe": "deit"}


def cifar10_transfer() -> Flags:
    """A DeiT transferred to CIFAR-10 at 224 px, without a teacher: add --finetune.

    Hardware: 1 GPU.
    Hours: not measured.
    Accuracy: 99.1 % published (Touvron et al., Table 7); batch, rate and epochs by DeiT's author (dino#81).
    """
    return {
        "model": "deit_base_distilled_patch16_224",
        "distillation": "none",
        "recipe": "deit",
        "epochs": 1000,
        "batch_size": 768,
        "lr": 7.5e-6,
        "min_lr": 0.0,
        "workers": 8,
    }


def cifar10_cpu() -> Flags:
    """A DeiT of 0.5 million parameters on CIFAR-10 at 32 px, hard labels of any teacher of ten classes.

    Hardware: 2 CPU cores.
    Hours: measured with 4,000 training images: docs/table3.md.
    Accuracy: measured with 4,000 training images: docs/table3.md.
    """
    return {
        "model": "deit_tiny_distilled_patch16_224",
        "model_kwargs": ("patch_size=8", "embed_dim=96", "depth=4", "num_heads=3"),
        "distillation": "hard",
        "epochs": 30,
        "batch_size": 128,
        "lr": 2e-3,
        "crop_pct": 1.0,
    }


RUNS: Mapping[str, Callable[[], Flags]] = {
    run.__name__: run
    for run in (
        *(deit_tiny_distilled_in1k, deit_small_distilled_in1k, deit_base_distilled_in1k),
        *(deit_base_distilled_384_in1k, deit_tiny_in1k, cifar10_transfer, cifar10_cpu),
    )
}
"""Named runs, by name."""
