"""Data module of views with labels for PyTorch Lightning, which resumes in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning import LightningDataModule

from teacher_cache.batches.batch import ViewBatch
from teacher_cache.errors import InputError
from teacher_cache.stream.labelled_views import LabelledViews

_COUNTS = ("batch_size", "world_size")


class LabelledDataModule(LightningDataModule):
    """Views with labels for `Trainer.fit`; a training step gets a ViewBatch on its device.

    Lightning's checkpoints hold the position in the data. Give the Trainer use_distributed_sampler=False,
    because each process already reads only its own share of the views.

    Args:
        data: Path or URL of a packed dataset.
        labels: Path or URL of an archive or export of labels, or several; None gives views without labels.
        val_data: Packed dataset for Trainer's validation, each image as the recipe "eval" shows it; every
            process classifies all of it.
        workers: Processes that render views; 0 renders in this process.
        **options: Further arguments of LabelledViews.

    Attributes:
        views: Views of this process, from `setup` on.
    """

    def __init__(
        self,
        data: str,
        labels: str | Sequence[str] | None = None,
        *,
        val_data: str | None = None,
        workers: int = 0,
        **options: Any,
    ) -> None:
        super().__init__()
        self._arguments, self._workers = {"data": data, "labels": labels, **options}, workers
        if val_data is not None:  # Lightning warns of a hook that gives no batch
            self.val_dataloader = lambda: self._validation(val_data)  # type: ignore[method-assign]
        self.views: LabelledViews | None = None

    def setup(self, stage: str) -> None:
        """Open the views of this process; Lightning calls this."""
        del stage
        if self.views is None:
            assert self.trainer is not None
            rank, world_size = self.trainer.global_rank, self.trainer.world_size
            self.views = LabelledViews(**self._arguments, rank=rank, world_size=world_size)

    def train_dataloader(self) -> Iterator[ViewBatch] | Any:
        """Return the batches of each epoch; Lightning calls this."""
        return _Epochs(self)

    def _validation(self, data: str) -> _Validation:
        assert self.views is not None
        images = LabelledViews(
            data,
            recipe="eval",
            img_size=self.views.recipe.img_size,
            batch_size=self._arguments["batch_size"],
            drop_last=False,
            rank=0,
            world_size=1,
        )
        return _Validation(images, self._workers)

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the data, for Lightning's checkpoints; empty before `setup`."""
        return {} if self.views is None else dict(self.views.state_dict())

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue at the position in the data that a checkpoint holds.

        Raises:
            InputError: See `LabelledViews.load_state_dict`; or Lightning, which counts batches, would end the
                epoch at another sample.
        """
        assert self.views is not None, "Lightning sets the module up before it loads a state"
        self.views.load_state_dict(state_dict)
        here = self.views.state_dict()
        counts = [(name, state_dict.get(name, here[name]), here[name]) for name in _COUNTS]
        if here["samples"] and any(then != now for _, then, now in counts):
            said = ", ".join(f"{name} {then} then and {now} now" for name, then, now in counts)
            raise InputError(
                f"the checkpoint lies within an epoch, with {said}",
                "Lightning counts batches: the rest of the epoch would be left out, or seen twice.",
                "resume with the batch size and processes of before, or from the end of an epoch",
            )

    def batches(self) -> Iterator[ViewBatch]:
        """Yield the remaining batches of the trainer's current epoch."""
        assert self.views is not None
        assert self.trainer is not None
        pins = self.trainer.strategy.root_device.type == "cuda"
        yield from self.views.epoch(self.trainer.current_epoch, workers=self._workers, pin_memory=pins)

    def transfer_batch_to_device(
        self, batch: ViewBatch, device: torch.device, dataloader_idx: int
    ) -> ViewBatch:
        """Return a batch with images and labels on a device; Lightning calls this."""
        del dataloader_idx
        return batch._replace(
            images_RCHW=batch.images_RCHW.to(device, non_blocking=True),
            targets=batch.targets.to(device),
            labels=None if batch.labels is None else batch.labels.to(device),
        )


class _Epochs:
    """Iterable over the batches of an epoch, with a length, that Lightning neither shards nor prefetches."""

    def __init__(self, module: LabelledDataModule) -> None:
        self._module = module

    def __len__(self) -> int:
        assert self._module.views is not None
        return len(self._module.views)

    def __iter__(self) -> Iterator[ViewBatch]:
        return self._module.batches()


class _Validation:
    """Iterable over the images of a dataset, as often as Lightning asks."""

    def __init__(self, images: LabelledViews, workers: int) -> None:
        self._images, self._workers = images, workers

    def __len__(self) -> int:
        return len(self._images)

    def __iter__(self) -> Iterator[ViewBatch]:
        return self._images.epoch(0, workers=self._workers)
