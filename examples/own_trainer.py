"""A training loop of one's own, on stored labels.

    python examples/own_trainer.py data/train labels

Run it under torchrun for several processes: call torch.distributed.init_process_group first, and wrap the
model in DistributedDataParallel; LabelledViews takes its share of each batch by itself.
"""

import timm
import torch
import tyro
from tyro.conf import Positional

from teacher_cache import LabelledViews, soft_loss


def train(
    data: Positional[str],
    labels: Positional[str],
    *,
    val_data: str | None = None,
    epochs: int = 1,
    batch_size: int = 16,
    workers: int = 2,
) -> list[float]:
    """Train a small student, and return the loss of each update.

    Args:
        data: Packed dataset.
        labels: Archive of labels.
        val_data: Packed dataset whose images are classified after each epoch.
        epochs: Passes over the dataset.
        batch_size: Views in a batch.
        workers: Processes that render views.
    """
    views = LabelledViews(data, labels=labels, batch_size=batch_size)
    model = timm.create_model("resnet18", num_classes=views.num_classes)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for epoch in range(views.next_epoch, epochs):
        for batch in views.epoch(epoch, workers=workers):
            assert batch.labels is not None
            logits = model(batch.inputs("cpu"))
            loss = soft_loss(logits, batch.labels, temperature=3.0, affinity=views.affinity)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        if val_data is not None:
            print(f"epoch {epoch}: accuracy {accuracy(model, val_data, views.recipe.img_size):.2%}")
    return losses


def accuracy(model: torch.nn.Module, val_data: str, img_size: int) -> float:
    """Return the share of a dataset's images whose class the model names."""
    images = LabelledViews(val_data, recipe="eval", img_size=img_size, batch_size=64, drop_last=False)
    model.eval()
    right = 0
    with torch.no_grad():
        for batch in images.epoch(0):
            right += int((model(batch.inputs("cpu")).argmax(1) == batch.targets.own_B).sum())
    model.train()
    return right / len(images.dataset)


if __name__ == "__main__":
    print(tyro.cli(train))
