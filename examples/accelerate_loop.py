"""A loop with Hugging Face accelerate on stored labels: prepare the model and the optimizer, never the views.

accelerate launch examples/accelerate_loop.py data/train labels
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from accelerate import Accelerator

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
    """Train a student with accelerate, and return the loss of each batch.

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
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    views = LabelledViews(data, labels=labels, batch_size=batch_size)  # this process's share
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=views.num_classes, **model_kwargs)
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=1e-3))
    accelerator.register_for_checkpointing(views)
    if Path(output).exists():
        accelerator.load_state(output)
    losses: list[float] = []
    for epoch in range(views.next_epoch, epochs):
        for batch in views.epoch(epoch, workers=workers):
            logits_BC, labels_B = model(batch.inputs(accelerator.device)), teach(batch)
            taught = hard_loss(logits_BC, labels_B.to(accelerator.device))
            loss = 0.5 * batch.targets.to(accelerator.device).cross_entropy(logits_BC) + 0.5 * taught
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            losses.append(loss.item())
            if len(losses) == stop_after:
                accelerator.save_state(output)
                return losses
    accelerator.save_state(output)
    return losses


if __name__ == "__main__":
    print(train(sys.argv[1], sys.argv[2]))
