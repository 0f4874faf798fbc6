"""PyTorch Lightning on stored labels: a data module, and a training step of three lines.

    python examples/lightning_trainer.py data/train labels

For several processes: Trainer(devices=N), or torchrun --nproc-per-node N examples/lightning_trainer.py ...
"""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
import tyro
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from tyro.conf import Positional

from teacher_cache import LabelledDataModule, ViewBatch, hard_loss, open_labels


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

    def validation_step(self, batch: ViewBatch) -> None:
        """Log the accuracy of a batch; Lightning weighs batches by their size."""
        right_B = self.model(batch.inputs(self.device)).argmax(1) == batch.targets.own_B
        self.log("accuracy", right_B.float().mean(), batch_size=len(right_B), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def train(
    options: Options,
    *,
    teach: Callable[[ViewBatch], Any] = lambda batch: batch.labels,
    stop_after: int | None = None,
    **model_kwargs: Any,
) -> list[float]:
    """Train a student with Lightning, and return the loss of each batch.

    Args:
        options: Flags of the run.
        teach: Function that gives the labels of a batch; the stored ones by default.
        stop_after: Number of batches after which the run stops; None runs to the end.
        **model_kwargs: Further arguments of timm.create_model.
    """
    views = LabelledDataModule(
        options.data,
        options.labels,
        val_data=options.val_data,
        batch_size=options.batch_size,
        workers=options.workers,
    )
    torch.manual_seed(0)
    labels = open_labels(options.labels)
    size = {"img_size": labels.recipe.img_size, "dynamic_img_size": True, "dynamic_img_pad": True}
    student = Student(labels.spec.labels.num_classes, teach, **{**size, **model_kwargs})
    trainer = Trainer(
        max_epochs=options.epochs,
        max_steps=-1 if stop_after is None else stop_after,
        devices=int(os.environ.get("WORLD_SIZE", "1")),
        use_distributed_sampler=False,
        callbacks=[ModelCheckpoint(options.output, save_last=True, every_n_train_steps=1, save_top_k=1)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    last = Path(options.output) / "last.ckpt"
    trainer.fit(student, datamodule=views, ckpt_path=str(last) if last.exists() else None)
    if options.val_data is not None:
        print(f"accuracy {trainer.callback_metrics['accuracy']:.2%}")
    return student.losses


if __name__ == "__main__":
    print(train(tyro.cli(Options)))
