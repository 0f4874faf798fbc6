"""timm's training loop on stored labels: what changes in its train.py are the loader and the task.

    python examples/timm_script.py data/train labels

For several processes: torchrun --nproc-per-node 2 examples/timm_script.py data/train labels
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import unwrap_model
from timm.utils.distributed import init_distributed_device_so

from teacher_cache import LabelledViews, StoredDistillationTask, TimmLoader, ViewBatch

MODEL = "deit_tiny_distilled_patch16_224"


def train(
    data: str,
    labels: str,
    output: str = "output",
    *,
    epochs: int = 1,
    batch_size: int = 16,
    workers: int = 2,
    teach: Callable[[ViewBatch], Any] | None = None,
    stop_after: int | None = None,
    **model_kwargs: Any,
) -> list[float]:
    """Train a student as timm's train.py does, and return the loss of each batch.

    Args:
        data: Packed dataset.
        labels: Archive of labels.
        output: Folder of the checkpoint, from which a stopped run goes on.
        epochs: Passes over the dataset.
        batch_size: Views in a batch of this process.
        workers: Processes that render views.
        teach: Function that gives other labels than the stored ones, such as those of a live teacher.
        stop_after: Number of batches after which the run stops; None runs to the end.
        **model_kwargs: Further arguments of timm.create_model.
    """
    info = init_distributed_device_so("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(info["device"])
    views = LabelledViews(data, labels=labels, batch_size=batch_size)
    torch.manual_seed(0)
    model = timm.create_model(MODEL, num_classes=views.num_classes, **model_kwargs).to(device)
    config = resolve_data_config(model=model)
    loader = TimmLoader(views, mean=config["mean"], std=config["std"], device=device, workers=workers)
    task = StoredDistillationTask(model, task_loss_weight=0.5, affinity=views.affinity, device=device)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
    scheduler, epochs = create_scheduler_v2(
        optimizer, sched="cosine", num_epochs=epochs, updates_per_epoch=len(loader), step_on_epochs=False
    )
    file = Path(output) / "last.pt"
    if file.exists():
        state = torch.load(file, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        loader.load_state_dict(state["views"])
    if info["distributed"]:
        task.prepare_distributed(device_ids=[device])
    losses: list[float] = []
    for epoch in range(views.next_epoch, epochs):
        loader.dataset.set_epoch(epoch)
        for images, target in loader:
            if teach is not None:
                target.labels = teach(target.batch).to(device)
            result = task(images, target)
            optimizer.zero_grad()
            result["loss"].backward()
            optimizer.step()
            scheduler.step_update(num_updates=loader.state_dict()["batches"])
            losses.append(result["loss"].item())
            if len(losses) == stop_after:
                break
        if len(losses) == stop_after:
            break
    if info["global_rank"] == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        states = {"model": unwrap_model(model).state_dict(), "optimizer": optimizer.state_dict()}
        torch.save({**states, "views": loader.state_dict()}, file)
    return losses


if __name__ == "__main__":
    print(train(sys.argv[1], sys.argv[2]))
