"""Loader of views with labels for Hugging Face's Trainer, which resumes in the middle of an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState
from typing_extensions import override

from teacher_cache.batches.batch import ViewBatch, unchanged
from teacher_cache.errors import InputError
from teacher_cache.stream.labelled_views import LabelledViews
from teacher_cache.stream.position import State
from teacher_cache.views.recipe_ops import IMAGENET_MEAN, IMAGENET_STD


class Held:
    """Wrapper around a batch, so that Trainer passes it on unchanged instead of splitting the named tuple.

    Args:
        batch: Batch of views.

    Attributes:
        batch: Argument of the same name.
    """

    def __init__(self, batch: ViewBatch) -> None:
        self.batch = batch


class ViewsPosition(TrainerCallback, ExportableState):
    """Callback that keeps the position in the views, and what it counts in, in Trainer's checkpoints.

    Attributes:
        position: State of the views after the last update; empty before the first.
    """

    def __init__(self) -> None:
        self.position: State = {}

    @override
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        loader = kwargs.get("train_dataloader")
        if isinstance(loader, TrainerLoader):
            self.position = loader.views.state_dict()

    @override
    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"position": self.position}}


class TrainerLoader(DataLoader[Any]):
    """Loader to return from `Trainer.get_train_dataloader`; never give it to `accelerator.prepare`.

    A batch is a dict of `pixel_values`, the model's input on its device, and `views`, which holds the
    ViewBatch. A resumed run renders nothing of what it has seen. Batches of an `eval_dataset` have no
    `views`: compute their loss as Trainer does.

    Args:
        trainer: Trainer of the loader; its arguments need remove_unused_columns=False.
        views: Views with labels, of this process.
        mean: Mean of the model's input, per channel.
        std: Standard deviation of the model's input, per channel.
        workers: Processes that render views; 0 renders in this process.

    Attributes:
        views: Argument of the same name.

    Raises:
        InputError: The trainer's arguments would drop the views from the batches, or repeat some of them.
    """

    def __init__(
        self,
        trainer: Trainer,
        views: LabelledViews,
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        workers: int = 0,
    ) -> None:
        for name, wanted in (("remove_unused_columns", False), ("ignore_data_skip", False)):
            if getattr(trainer.args, name) != wanted:
                raise InputError(
                    f"TrainingArguments({name}={not wanted})",
                    "Trainer would drop the views from the batches, or repeat some after a resume.",
                    f"set {name}={wanted} in TrainingArguments",
                )
        trainer.pop_callback(ViewsPosition)  # of a train() before
        trainer.add_callback(ViewsPosition())
        self.views = views
        super().__init__(
            _Epochs(trainer, views, _Input(mean, std), workers), batch_size=None, collate_fn=unchanged
        )

    def __len__(self) -> int:
        return len(self.views)


class _Input(NamedTuple):
    mean: Sequence[float]
    std: Sequence[float]


class _Epochs(IterableDataset[Any]):
    """Batches of the epoch that contains the trainer's `global_step`.

    Trainer skips the batches that a resumed epoch has used already: these are None, and are not rendered.
    """

    def __init__(self, trainer: Trainer, views: LabelledViews, input_: _Input, workers: int) -> None:
        self._trainer, self._views, self._input, self._workers = trainer, views, input_, workers
        self._is_new = True

    def __len__(self) -> int:
        return len(self._views.dataset)

    def __iter__(self) -> Iterator[dict[str, Any] | None]:
        args, views = self._trainer.args, self._views
        accumulated = args.gradient_accumulation_steps
        updates_per_epoch = -(-len(views) // accumulated)
        epoch, updates = divmod(self._trainer.state.global_step, updates_per_epoch)
        num_seen = updates * accumulated
        position = epoch * len(views) + num_seen
        if self._is_new and position:
            self._check(position)
        self._is_new = False
        yield from [None] * num_seen
        views.load_state_dict({"batches": position})
        for batch in views.epoch(epoch, workers=self._workers, pin_memory=args.device.type == "cuda"):
            yield {"pixel_values": batch.inputs(args.device, *self._input), "views": Held(batch)}

    def _check(self, position: int) -> None:
        """Refuse to go on from a checkpoint that counts in other batches, or whose data were others."""
        kept: Any = self._trainer.state.stateful_callbacks  # a dict by class, though its type is a list
        saved = kept.get(ViewsPosition.__name__, {}).get("attributes", {}).get("position")
        if not saved:  # a checkpoint of an earlier version; Trainer's next one needs the entry
            kept.setdefault(ViewsPosition.__name__, ViewsPosition().state())
            return
        self._views.load_state_dict(saved)
        found = self._views.state_dict()["batches"]
        if found != position:
            raise InputError(
                f"the checkpoint is {position:,} batches into the run by its updates, {found:,} by its views",
                "Trainer counts updates: samples would be left out, or seen twice.",
                "resume with the batch size, gradient_accumulation_steps and processes of before",
            )
