"""Where the numbers of a run go: metrics.jsonl always, TensorBoard and Weights & Biases where asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from student.config import TrainConfig
from teacher_cache.errors import InputError
from teacher_cache.line_log import LineLog
from teacher_cache.store import Store

METRICS_FILE = "metrics.jsonl"


class Metrics(Protocol):
    """Takes what there is to know of one update: `step` and numbers by name."""

    def __call__(self, line: Mapping[str, Any]) -> None:
        """Take it."""
        ...


def read_metrics(store: Store) -> list[dict[str, Any]]:
    """Return the lines of a run's metrics.jsonl, without one that was being written when the run was killed.

    Raises:
        InputError: There is none.
    """
    try:
        text = store.get(METRICS_FILE)
    except FileNotFoundError as error:
        raise InputError(
            f"{store.url} has no {METRICS_FILE}", "It is no run.", "give the --output of `student train`"
        ) from error
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith(b"\n")]


@contextlib.contextmanager
def opened_metrics(config: TrainConfig, store: Store, from_step: int) -> Iterator[Metrics]:
    """Open a run's metrics: what was written of steps before `from_step` stays, and is gone on from.

    Raises:
        InputError: A library that was asked for is not installed.
    """
    kept: list[dict[str, Any]] = []
    if from_step:
        kept = [line for line in read_metrics(store) if line.get("step", from_step) < from_step]
    begin = b"".join(json.dumps(line).encode() + b"\n" for line in kept)
    with contextlib.ExitStack() as open_things:
        sinks: list[Metrics] = []
        if config.tensorboard:
            sinks.append(open_things.enter_context(_tensorboard(store, from_step)))
        if config.log_wandb:
            sinks.append(open_things.enter_context(_wandb(config, store)))
        log = open_things.enter_context(LineLog(store, METRICS_FILE, begin=begin))

        def write(line: Mapping[str, Any]) -> None:
            log.write(json.dumps(line))
            for sink in sinks:
                sink(line)

        yield write


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    """Return what can be drawn of a line, flat."""
    flat: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}/{inner}": number for inner, number in _numbers(value).items()}
        elif isinstance(value, int | float):
            flat[name] = value
    return flat


@contextlib.contextmanager
def _tensorboard(store: Store, from_step: int) -> Iterator[Metrics]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "--tensorboard", "TensorBoard is not installed.", "pip install 'teacher-cache[tensorboard]'"
        ) from error
    with SummaryWriter(store.path("tensorboard"), purge_step=from_step) as writer:

        def write(line: Mapping[str, Any]) -> None:
            if "step" in line:
                for name, value in _numbers(line).items():
                    writer.add_scalar(name, value, line["step"])

        yield write


@contextlib.contextmanager
def _wandb(config: TrainConfig, store: Store) -> Iterator[Metrics]:
    try:
        import wandb
    except ImportError as error:
        raise InputError(
            "--log-wandb", "Weights & Biases is not installed.", "pip install 'teacher-cache[wandb]'"
        ) from error
    identity = hashlib.sha256(store.url.encode()).hexdigest()[:16]  # a run that goes on is the same run there
    settings = dataclasses.asdict(config)
    with wandb.init(project=config.wandb_project, id=identity, resume="allow", config=settings) as run:

        def write(line: Mapping[str, Any]) -> None:
            run.log(_numbers(line), step=line.get("step"))

        yield write
