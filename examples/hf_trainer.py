"""Hugging Face's Trainer on stored labels: a loader, and a loss.

    python examples/hf_trainer.py data/train labels

For several processes: torchrun --nproc-per-node 2 examples/hf_trainer.py data/train labels
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch.utils.data import DataLoader, Dataset
from transformers import (
    EvalPrediction,
    ResNetConfig,
    ResNetForImageClassification,
    Trainer,
    TrainingArguments,
    set_seed,
)
from tyro.conf import Positional

from teacher_cache import (
    LabelledViews,
    PackedDataset,
    TrainerLoader,
    ViewBatch,
    hard_loss,
    load_recipe,
    render,
)

MEAN_C11, STD_C11 = (
    torch.tensor(values)[:, None, None] for values in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
)


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


class Validation(Dataset[dict[str, Any]]):
    """Images and true labels of a packed dataset, as Trainer evaluates them."""

    def __init__(self, data: str, img_size: int) -> None:
        self.images, self.recipe = PackedDataset(data), load_recipe("eval", img_size)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Return an image as a model's input, and its class id."""
        key, data = self.images.index.key(row), self.images.image_bytes(row)
        pixels_CHW = (render(data, self.recipe, key, view=0) / 255 - MEAN_C11) / STD_C11
        return {"pixel_values": pixels_CHW, "labels": int(self.images.index.labels_N[row])}


def accuracy(predicted: EvalPrediction) -> dict[str, float]:
    """Return the share of images whose class the model names."""
    class_ids_N = np.asarray(predicted.predictions).argmax(1)
    return {"accuracy": float((class_ids_N == predicted.label_ids).mean())}


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
        """Return the loss of a batch, a mean over its views; that of the true labels in evaluation."""
        if "views" not in inputs:
            return super().compute_loss(model, inputs, return_outputs)
        del num_items_in_batch
        outputs, batch = model(pixel_values=inputs["pixel_values"]), inputs["views"].batch
        logits_BC, labels = outputs.logits, self.teach(batch)
        targets = batch.targets.to(logits_BC.device)
        taught = hard_loss(logits_BC, labels.to(logits_BC.device))
        loss = 0.5 * targets.cross_entropy(logits_BC) + 0.5 * taught
        self.losses.append(loss.item())
        return (loss, outputs) if return_outputs else loss


def train(
    options: Options,
    *,
    teach: Callable[[ViewBatch], Any] = lambda batch: batch.labels,
    stop_after: int | None = None,
    **config: Any,
) -> list[float]:
    """Train a student with Trainer, and return the loss of each batch.

    Args:
        options: Flags of the run.
        teach: Function that gives the labels of a batch; the stored ones by default.
        stop_after: Number of batches after which the run stops; None runs to the end.
        **config: Further arguments of ResNetConfig.
    """
    args = TrainingArguments(
        options.output,
        num_train_epochs=options.epochs,
        max_steps=-1 if stop_after is None else stop_after,
        per_device_train_batch_size=options.batch_size,
        eval_strategy="no" if options.val_data is None else "epoch",
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        lr_scheduler_type="constant",
        learning_rate=1e-3,
        save_steps=1000 if stop_after is None else stop_after,
        report_to=[],
        disable_tqdm=True,
    )
    views = LabelledViews(options.data, labels=options.labels, batch_size=options.batch_size)
    set_seed(0)
    names = {number: str(number) for number in range(views.num_classes)}
    student = ResNetForImageClassification(ResNetConfig(id2label=names, **config))
    trainer = Distiller(
        student,
        args,
        views=views,
        workers=options.workers,
        teach=teach,
        eval_dataset=options.val_data and Validation(options.val_data, views.recipe.img_size),
        compute_metrics=accuracy,
    )
    trainer.train(resume_from_checkpoint=any(Path(options.output).glob("checkpoint-*")) or None)
    if options.val_data is not None:
        print(trainer.evaluate())
    return trainer.losses


if __name__ == "__main__":
    print(train(tyro.cli(Options)))
