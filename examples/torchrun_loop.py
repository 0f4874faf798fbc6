"""A plain torch loop on stored labels, for any number of processes.

torchrun --nproc-per-node 2 examples/torchrun_loop.py data/train labels
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from teacher_cache import LabelledViews, ViewBatch, hard_loss


def train(
    data: str,
    labels: str,
    output: str = "output",
    *,
    epochs: int = 1,
    batch_size: int = 16,
    workers: int = 2,
    teach: Callable[[ViewBatch], Any] = lambda batch: batch.labels,
    stop_after: int | None = None,
    **model_kwargs: Any,
) -> list[float]:
    """Train a student, and return the loss of each batch.

    Args:
        data: Packed dataset.
        labels: Archive of labels.
        output: Folder of the state, from which a stopped run goes on.
        epochs: Passes over the dataset.
        batch_size: Views in a batch of this process.
        workers: Processes that render views.
        teach: Function that gives the labels of a batch; the stored ones by default.
        stop_after: Number of batches after which the run stops; None runs to the end.
        **model_kwargs: Further arguments of timm.create_model.
    """
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group()
    device = (
        torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if torch.cuda.is_available() else "cpu"
    )
    views = LabelledViews(data, labels=labels, batch_size=batch_size)  # this process's share
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=views.num_classes, **model_kwargs)
    model.to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    file = Path(output) / "last.pt"
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

    for epoch in range(views.next_epoch, epochs):
        for batch in views.epoch(epoch, workers=workers):
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
    save()
    return losses


if __name__ == "__main__":
    print(train(sys.argv[1], sys.argv[2]))
