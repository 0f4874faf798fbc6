"""State of a run between two updates, in one file: weights, moving average, optimizer, and progress.

A state is a safetensors file, so loading it unpickles nothing; values other than tensors are JSON in its
header. No generator state is saved: dropout is seeded by (seed, update, rank), and the order of the views
depends only on the number of the batch. A write is atomic, so the newest state is always complete.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from student.step import Trainer
from teacher_cache.errors import InputError, TeacherCacheError
from teacher_cache.storage.store import Store

VERSION = 1
_HEADER = "teacher_cache_state"
_NAME = re.compile(r"state-(\d{8})\.safetensors")


@dataclasses.dataclass(frozen=True)
class RunProgress:
    """Progress of a run, without the weights.

    Attributes:
        best: Accuracy of the best weights so far, or None before any evaluation.
        identity: Flags and digests that identify the run, by name.
    """

    updates: int
    best: float | None
    identity: dict[str, Any]


def name_of(updates: int) -> str:
    """Return the name of the state after a number of updates."""
    return f"state-{updates:08d}.safetensors"


def saved_updates(store: Store) -> list[int]:
    """Return the numbers of updates after which states were saved, in rising order."""
    return sorted(int(match[1]) for name in store.list() if (match := _NAME.fullmatch(name)))


def save_state(store: Store, trainer: Trainer, progress: RunProgress, keep: int) -> None:
    """Save the state of a trainer, and delete all but the `keep` newest.

    Raises:
        TeacherCacheError: The optimizer's state has a value that JSON cannot represent.
        StoreError: The state cannot be written.
    """
    optimizer = trainer.optimizer.state_dict()
    tensors = _prefixed("model", trainer.model.state_dict())
    if trainer.ema is not None:
        tensors |= _prefixed("ema", trainer.ema.module.state_dict())
    scalars: dict[str, dict[str, Any]] = {}
    for index, values in optimizer["state"].items():
        for name, value in values.items():
            if isinstance(value, torch.Tensor):
                tensors |= _prefixed(f"optimizer.{index}", {name: value})
            else:
                scalars.setdefault(str(index), {})[name] = value
    header = {
        "version": VERSION,
        **dataclasses.asdict(progress),
        "param_groups": optimizer["param_groups"],
        "scalars": scalars,
        "scaler": trainer.scaler.state_dict(),
    }
    try:
        text = json.dumps(header)
    except TypeError as error:
        raise TeacherCacheError(
            f"the state of {type(trainer.optimizer).__name__} cannot be saved: {error}",
            "The run could not go on after a stop.",
            "choose another --opt",
        ) from error
    store.put(name_of(progress.updates), safetensors.torch.save(tensors, metadata={_HEADER: text}))
    for updates in saved_updates(store)[:-keep]:
        store.delete(name_of(updates))


def refuse_other(was: Mapping[str, Any], is_now: Mapping[str, Any], output: str) -> None:
    """Raise InputError, naming each difference, if the saved run's identity is not this run's."""
    differing = [name for name in is_now if was.get(name) != is_now[name]]
    if differing:
        said = "; ".join(f"{name}: {was.get(name)} then, {is_now[name]} now" for name in sorted(differing))
        raise InputError(
            f"the run in --output {output} differs from this one: {said}",
            "Resuming it would mix two different runs.",
            "give the flags that it was started with, or a new --output",
        )


def load_progress(store: Store, updates: int) -> RunProgress:
    """Return the progress in a state, without the weights. Raises InputError if the state is damaged."""
    with store.local_copy(name_of(updates)) as path:
        header = _header(path, store.path(name_of(updates)))
    return RunProgress(header["updates"], header["best"], header["identity"])


def load_state(store: Store, updates: int, trainer: Trainer) -> None:
    """Restore a trainer from a saved state.

    Raises:
        InputError: The state is damaged, or was saved from another model or optimizer.
    """
    with store.local_copy(name_of(updates)) as path:
        header = _header(path, store.path(name_of(updates)))
        tensors = safetensors.torch.load_file(path)
    try:
        trainer.model.load_state_dict(_of(tensors, "model"))
        if trainer.ema is not None:
            trainer.ema.module.load_state_dict(_of(tensors, "ema"))
        parameters = [each for group in trainer.optimizer.param_groups for each in group["params"]]
        state: dict[int, dict[str, Any]] = {}
        for name, value in _of(tensors, "optimizer").items():
            index, _, entry = name.partition(".")
            state.setdefault(int(index), {})[entry] = _laid_out_as(value, parameters[int(index)])
        for index, values in header["scalars"].items():
            state.setdefault(int(index), {}).update(values)
        trainer.optimizer.load_state_dict({"state": state, "param_groups": header["param_groups"]})
    except (RuntimeError, ValueError, KeyError, IndexError) as error:
        raise InputError(
            f"{store.path(name_of(updates))} was saved from another model or optimizer: {error}",
            "The run cannot be resumed from it.",
            "give the flags that the run was started with, or a new --output",
        ) from error
    if header["scaler"]:
        trainer.scaler.load_state_dict(header["scaler"])
    trainer.updates = header["updates"]
    trainer.scheduler.step_update(trainer.updates)


def _laid_out_as(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """Return an optimizer's tensor in its parameter's memory layout, which fused optimizers rely on."""
    if value.shape != parameter.shape:
        return value
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def _prefixed(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}.{name}": tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _of(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(f"{prefix}."): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{prefix}.")
    }


def _header(path: Path, name: str) -> dict[str, Any]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
    except Exception as error:  # safetensors has errors of its own kinds
        raise InputError(
            f"{name} is not a state of a run: {error}",
            "The run cannot be resumed from it.",
            "delete it: the run then resumes from the state before it, or starts over",
        ) from error
    if header["version"] != VERSION:
        raise InputError(
            f"{name} is a state of version {header['version']}",
            f"This release reads only version {VERSION}.",
            "resume with the release of teacher-cache that started the run",
        )
    return header
