"""Metrics of a run: written to metrics.jsonl, and to TensorBoard and Weights & Biases on request."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from student.config import TrainConfig, kept_flags
from teacher_cache.errors import InputError
from teacher_cache.storage.line_log import LineLog
from teacher_cache.storage.store import Store

METRICS_FILE = "metrics.jsonl"
_WANDB_FILE = "wandb-id"


Sink: TypeAlias = Callable[[Mapping[str, Any]], None]
"""Function that takes the metrics of one update: `step`, and numbers by name."""


@dataclasses.dataclass(frozen=True)
class RunResult:
    """Result of a run.

    Attributes:
        steps: Updates done, including those before a stop.
        images: Views that this call trained on, in all processes.
        seconds: Time from the first batch to the last update of this call, without building and evaluating.
        data_wait_s: Seconds of that time spent waiting for batches.
        teacher_passes: Views that a live teacher labelled in this call and process.
        accuracy: Accuracy on --val-data, by head; empty without --val-data.
        ema_accuracy: Accuracy of the averaged weights on --val-data, by head; empty without them.
        tflops: 10^12 operations of the model a second on this process's device.
    """

    steps: int
    images: int
    seconds: float
    data_wait_s: float
    teacher_passes: int
    accuracy: dict[str, float]
    ema_accuracy: dict[str, float]
    tflops: float


class Metrics:
    """Writer of a run's metrics; without a log, nothing is written to metrics.jsonl."""

    def __init__(self, log: LineLog | None, sinks: Sequence[Sink] = ()) -> None:
        self._log, self._sinks = log, sinks

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Write a line of metrics."""
        if self._log is not None:
            self._log.write(json.dumps(line))
        for sink in self._sinks:
            sink(line)

    def flush(self) -> None:
        """Flush all lines to storage: a state to resume from must not be ahead of the metrics."""
        if self._log is not None:
            self._log.flush()


def read_metrics(store: Store) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics.jsonl, without an incomplete last line, which a kill leaves.

    Raises:
        InputError: There is no metrics.jsonl.
    """
    try:
        text = store.get(METRICS_FILE)
    except FileNotFoundError as error:
        raise InputError(
            f"{store.url} has no {METRICS_FILE}",
            "It is not the output of a run.",
            "give the --output of `student train`",
        ) from error
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith(b"\n")]


@contextlib.contextmanager
def opened_metrics(config: TrainConfig, store: Store, from_step: int) -> Iterator[Metrics]:
    """Open the writer of a run's metrics; lines of steps before `from_step` are kept, later ones deleted.

    Raises:
        InputError: A library that was asked for is not installed.
    """
    kept: list[dict[str, Any]] = []
    if from_step:
        kept = [line for line in read_metrics(store) if line.get("step", from_step) < from_step]
    begin = b"".join(json.dumps(line).encode() + b"\n" for line in kept)
    with contextlib.ExitStack() as open_things:
        sinks: list[Sink] = []
        if config.tensorboard:
            sinks.append(open_things.enter_context(_tensorboard(store, from_step)))
        if config.log_wandb:
            sinks.append(open_things.enter_context(_wandb(config, store)))
        yield Metrics(open_things.enter_context(LineLog(store, METRICS_FILE, begin=begin)), sinks)


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers in a line of metrics by name; names of nested ones are joined by "/"."""
    flat: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}/{inner}": number for inner, number in _numbers(value).items()}
        elif isinstance(value, int | float):
            flat[name] = value
    return flat


@contextlib.contextmanager
def _tensorboard(store: Store, from_step: int) -> Iterator[Sink]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "--tensorboard", "TensorBoard is not installed.", "pip install 'teacher-cache[tensorboard]'"
        ) from error
    with SummaryWriter(store.url_of("tensorboard"), purge_step=from_step) as writer:

        def write(line: Mapping[str, Any]) -> None:
            if "step" in line:
                for name, value in _numbers(line).items():
                    writer.add_scalar(name, value, line["step"])

        yield write


@contextlib.contextmanager
def _wandb(config: TrainConfig, store: Store) -> Iterator[Sink]:
    try:
        import wandb
    except ImportError as error:
        raise InputError(
            "--log-wandb", "Weights & Biases is not installed.", "pip install 'teacher-cache[wandb]'"
        ) from error
    store.put_new(_WANDB_FILE, secrets.token_hex(8).encode())  # a resumed run keeps its id there
    try:
        run = wandb.init(
            project=config.wandb_project,
            id=store.get(_WANDB_FILE).decode(),
            resume="allow",
            config=kept_flags(config),
        )
    except wandb.errors.Error as error:
        raise InputError(
            f"--log-wandb: {error}", "Nothing was trained.", "log in: wandb login, or set WANDB_MODE=offline"
        ) from error
    with run:

        def write(line: Mapping[str, Any]) -> None:
            run.log(_numbers(line), step=line.get("step"))

        yield write
