"""A plain torch loop on stored labels, for any number of processes.

torchrun --nproc-per-node 2 examples/torchrun_loop.py data/train labels
"""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torch.distributed as dist
import tyro
from torch.nn.parallel import DistributedDataParallel
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
    """Train a student, and return the loss of each batch.

    Args:
        options: Flags of the run.
        teach: Function that gives the labels of a batch; the stored ones by default.
        stop_after: Number of batches after which the run stops; None runs to the end.
        **model_kwargs: Further arguments of timm.create_model.
    """
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group()
    device = (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else "cpu"
    )
    views = LabelledViews(
        options.data, labels=options.labels, batch_size=options.batch_size
    )  # this process's share
    torch.manual_seed(0)
    size = {"img_size": views.recipe.img_size, "dynamic_img_size": True, "dynamic_img_pad": True}
    model = timm.create_model(
        "vit_tiny_patch16_224", num_classes=views.num_classes, **{**size, **model_kwargs}
    )
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    file = Path(options.output) / "last.pt"
    if file.exists():
        state = torch.load(file, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        views.load_state_dict(state["views"])
    forward = DistributedDataParallel(model) if dist.is_initialized() else model
    losses: list[float] = []

    def save() -> None:
        if not dist.is_initialized() or dist.get_rank() == 0:
            file.parent.mkdir(parents=True, exist_ok=True)
            states = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**states, "views": views.state_dict()}, file)

    for epoch in range(views.next_epoch, options.epochs):
        for batch in views.epoch(epoch, workers=options.workers):
            logits_BC, labels_B = forward(batch.inputs(device)), teach(batch)
            taught = hard_loss(logits_BC, labels_B.to(device))
            loss = 0.5 * batch.targets.to(device).cross_entropy(logits_BC) + 0.5 * taught
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if len(losses) == stop_after:
                save()
                return losses
        if options.val_data is not None:
            print(f"epoch {epoch}: accuracy {accuracy(model, options, views.recipe.img_size, device):.2%}")
    save()
    return losses


if __name__ == "__main__":
    print(train(tyro.cli(Options)))
