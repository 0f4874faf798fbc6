"""A training loop of one's own, on stored labels.

    python examples/own_trainer.py data/train labels

Run it under torchrun for several processes: call torch.distributed.init_process_group first, and wrap the
model in DistributedDataParallel; LabelledViews takes its share of each batch by itself.
"""

import sys

import timm
import torch

from teacher_cache import LabelledViews, soft_loss


def train(data: str, labels: str, epochs: int = 1, batch_size: int = 16, workers: int = 2) -> list[float]:
    """Train a small student, and return the loss of each update."""
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
    return losses


if __name__ == "__main__":
    print(train(sys.argv[1], sys.argv[2]))
