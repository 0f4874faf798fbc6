"""Hugging Face's Trainer on stored labels: a loader, and a loss.

    python examples/hf_trainer.py data/train labels

For several processes: torchrun --nproc-per-node 2 examples/hf_trainer.py data/train labels
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments, set_seed

from teacher_cache import LabelledViews, TrainerLoader, ViewBatch, hard_loss


class Distiller(Trainer):
    """Trainer whose student learns from true labels and from the teacher at half weight each."""

    def __init__(
        self,
        *args: Any,
        views: LabelledViews,
        workers: int,
        teach: Callable[[ViewBatch], Any],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.views, self.workers, self.teach, self.losses = views, workers, teach, list[float]()
        self.loss_is_scaled_for_ga = False

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the views."""
        return TrainerLoader(self, self.views, workers=self.workers)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Return the loss of a batch, a mean over its views."""
        del num_items_in_batch
        outputs, batch = model(pixel_values=inputs["pixel_values"]), inputs["views"].batch
        logits_BC, labels = outputs.logits, self.teach(batch)
        targets = batch.targets.to(logits_BC.device)
        taught = hard_loss(logits_BC, labels.to(logits_BC.device))
        loss = 0.5 * targets.cross_entropy(logits_BC) + 0.5 * taught
        self.losses.append(loss.item())
        return (loss, outputs) if return_outputs else loss


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
    **config: Any,
) -> list[float]:
    """Train a student with Trainer, and return the loss of each batch.

    Args:
        data: Packed dataset.
        labels: Archive of labels.
        output: Folder of the checkpoints, from which a stopped run goes on.
        epochs: Passes over the dataset.
        batch_size: Views in a batch of this process.
        workers: Processes that render views.
        teach: Function that gives the labels of a batch; the stored ones by default.
        stop_after: Number of batches after which the run stops; None runs to the end.
        **config: Further arguments of ResNetConfig.
    """
    args = TrainingArguments(
        output,
        num_train_epochs=epochs,
        max_steps=-1 if stop_after is None else stop_after,
        per_device_train_batch_size=batch_size,
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        lr_scheduler_type="constant",
        learning_rate=1e-3,
        save_steps=1000 if stop_after is None else stop_after,
        report_to=[],
        disable_tqdm=True,
    )
    views = LabelledViews(data, labels=labels, batch_size=batch_size)
    set_seed(0)
    names = dict(enumerate(views.dataset.info.classes))
    student = ResNetForImageClassification(ResNetConfig(id2label=names, **config))
    trainer = Distiller(student, args, views=views, workers=workers, teach=teach)
    trainer.train(resume_from_checkpoint=any(Path(output).glob("checkpoint-*")) or None)
    return trainer.losses


if __name__ == "__main__":
    print(train(sys.argv[1], sys.argv[2]))
