"""timm's training loop on stored labels: what changes in its train.py are the loader and the task.

    python examples/timm_script.py data/train labels

For several processes: torchrun --nproc-per-node 2 examples/timm_script.py data/train labels
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import tyro
from timm.data import resolve_data_config
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import unwrap_model
from timm.utils.distributed import init_distributed_device_so
from tyro.conf import Positional

from teacher_cache import LabelledViews, StoredDistillationTask, TimmLoader, ViewBatch

MODEL = "deit_tiny_distilled_patch16_224"


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
    teach: Callable[[ViewBatch], Any] | None = None,
    stop_after: int | None = None,
    **model_kwargs: Any,
) -> list[float]:
    """Train a student as timm's train.py does, and return the loss of each batch.

    Args:
        options: Flags of the run.
        teach: Function that gives other labels than the stored ones, such as those of a live teacher.
        stop_after: Number of batches after which the run stops; None runs to the end.
        **model_kwargs: Further arguments of timm.create_model.
    """
    info = init_distributed_device_so("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(info["device"])
    views = LabelledViews(options.data, labels=options.labels, batch_size=options.batch_size)
    torch.manual_seed(0)
    size = {"img_size": views.recipe.img_size, "dynamic_img_size": True, "dynamic_img_pad": True}
    model = timm.create_model(MODEL, num_classes=views.num_classes, **{**size, **model_kwargs}).to(device)
    config = resolve_data_config(model=model)
    loader = TimmLoader(views, mean=config["mean"], std=config["std"], device=device, workers=options.workers)
    task = StoredDistillationTask(model, task_loss_weight=0.5, affinity=views.affinity, device=device)
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
    scheduler, epochs = create_scheduler_v2(
        optimizer,
        sched="cosine",
        num_epochs=options.epochs,
        updates_per_epoch=len(loader),
        step_on_epochs=False,
    )
    file = Path(options.output) / "last.pt"
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
        if options.val_data is not None and info["global_rank"] == 0:
            found = accuracy(unwrap_model(model), options, views.recipe.img_size, device)
            print(f"epoch {epoch}: accuracy {found:.2%}")
    if info["global_rank"] == 0:
        file.parent.mkdir(parents=True, exist_ok=True)
        states = {"model": unwrap_model(model).state_dict(), "optimizer": optimizer.state_dict()}
        torch.save({**states, "views": loader.state_dict()}, file)
    return losses


if __name__ == "__main__":
    print(train(tyro.cli(Options)))
