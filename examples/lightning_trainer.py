"""PyTorch Lightning on stored labels: a data module, and a training step of three lines.

    python examples/lightning_trainer.py data/train labels

For several processes: Trainer(devices=N), or torchrun --nproc-per-node N examples/lightning_trainer.py ...
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from teacher_cache import LabelledDataModule, PackedDataset, ViewBatch, hard_loss


class Student(LightningModule):
    """Student that learns from true labels and from the teacher at half weight each."""

    def __init__(self, num_classes: int, teach: Callable[[ViewBatch], Any], **model_kwargs: Any) -> None:
        super().__init__()
        self.model = timm.create_model("vit_tiny_patch16_224", num_classes=num_classes, **model_kwargs)
        self.teach, self.losses = teach, list[float]()

    def training_step(self, batch: ViewBatch) -> torch.Tensor:
        """Return the loss of a batch."""
        logits_BC, labels = self.model(batch.inputs(self.device)), self.teach(batch).to(self.device)
        loss = 0.5 * batch.targets.cross_entropy(logits_BC) + 0.5 * hard_loss(logits_BC, labels)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


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
    """Train a student with Lightning, and return the loss of each batch.

    Args:
        data: Packed dataset.
        labels: Archive of labels.
        output: Folder of the checkpoint, from which a stopped run goes on.
        epochs: Passes over the dataset.
        batch_size: Views in a batch of this process.
        workers: Processes that render views.
        teach: Function that gives the labels of a batch; the stored ones by default.
        stop_after: Number of batches after which the run stops; None runs to the end.
        **model_kwargs: Further arguments of timm.create_model.
    """
    views = LabelledDataModule(data, labels, batch_size=batch_size, workers=workers)
    torch.manual_seed(0)
    num_classes = len(PackedDataset(data).info.classes)
    student = Student(num_classes, teach, **model_kwargs)
    trainer = Trainer(
        max_epochs=epochs,
        max_steps=-1 if stop_after is None else stop_after,
        devices=int(os.environ.get("WORLD_SIZE", "1")),
        use_distributed_sampler=False,
        callbacks=[ModelCheckpoint(output, save_last=True, every_n_train_steps=1, save_top_k=1)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    last = Path(output) / "last.ckpt"
    trainer.fit(student, datamodule=views, ckpt_path=str(last) if last.exists() else None)
    return student.losses


if __name__ == "__main__":
    print(train(sys.argv[1], sys.argv[2]))
