"""A loop with Hugging Face accelerate on stored labels: prepare the model and the optimizer, never the views.

accelerate launch examples/accelerate_loop.py data/train labels
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import tyro
from accelerate import Accelerator
from tyro.conf import Positional

from teacher_cache import LabelledViews, ViewBatch, hard_loss


@dataclasses.dataclass
class Options:
    """Flags of a run."""

    data: Positional[str]
    """Packed dataset."""
    labels: Positional[str]
    """Archive of labels."""
    output: str = "output"
    """Folder of the state, from which a stopped run goes on."""
    val_data: str | None = None
    """Packed dataset whose images are classified after each epoch."""
    epochs: int = 1
    """Passes over the dataset."""
    batch_size: int = 16
    """Views in a batch of this process."""
    workers: int = 2
    """Processes that render views."""


def accuracy(model: torch.nn.Module, options: Options, img_size: int, device: torch.device | str) -> float:
    """Return the share of the validation images whose class the model names."""
    images = LabelledViews(
        str(options.val_data),
        recipe="eval",
        img_size=img_size,
        batch_size=options.batch_size,
        drop_last=False,
        rank=0,
        world_size=1,
    )
    model.eval()
    right = 0
    with torch.no_grad():
        for batch in images.epoch(0):
            right += int((model(batch.inputs(device)).argmax(1).cpu() == batch.targets.own_B).sum())
    model.train()
    return right / len(images.dataset)


def train(
    options: Options,
    *,
    teach: Callable[[ViewBatch], Any] = lambda batch: batch.labels,
    stop_after: int | None = None,
    **model_kwargs: Any,
) -> list[float]:
    """Train a student with accelerate, and return the loss of each batch.

    Args:
        options: Flags of the run.
        teach: Function that gives the labels of a batch; the stored ones by default.
        stop_after: Number of batches after which the run stops; None runs to the end.
        **model_kwargs: Further arguments of timm.create_model.
    """
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    views = LabelledViews(options.data, labels=options.labels, batch_size=options.batch_size)
    torch.manual_seed(0)
    size = {"img_size": views.recipe.img_size, "dynamic_img_size": True, "dynamic_img_pad": True}
    model = timm.create_model(
        "vit_tiny_patch16_224", num_classes=views.num_classes, **{**size, **model_kwargs}
    )
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-3))
    accelerator.register_for_checkpointing(views)
    if Path(options.output).exists():
        accelerator.load_state(options.output)
    losses: list[float] = []
    for epoch in range(views.next_epoch, options.epochs):
        for batch in views.epoch(epoch, workers=options.workers):
            logits_BC, labels_B = model(batch.inputs(accelerator.device)), teach(batch)
            taught = hard_loss(logits_BC, labels_B.to(accelerator.device))
            loss = 0.5 * batch.targets.to(accelerator.device).cross_entropy(logits_BC) + 0.5 * taught
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            losses.append(loss.item())
            if len(losses) == stop_after:
                accelerator.save_state(options.output)
                return losses
        if options.val_data is not None:
            found = accuracy(model, options, views.recipe.img_size, accelerator.device)
            accelerator.print(f"epoch {epoch}: accuracy {found:.2%}")
    accelerator.save_state(options.output)
    return losses


if __name__ == "__main__":
    print(train(tyro.cli(Options)))
