"""A run in processes that Ray Train starts: the very same function, in each of them."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from student.config import TrainConfig
from student.loop import RunResult, dry_run, train
from student.metrics import read_metrics
from teacher_cache.commandline import with_absolute_paths
from teacher_cache.errors import InputError, TeacherCacheError
from teacher_cache.models import resolve_device
from teacher_cache.progress import console
from teacher_cache.store import Store

_PATHS = ("data", "output", "labels", "val_data", "finetune", "teacher_checkpoint", "cache_dir")
_MAX_FAILURES = 3
"""Times that all processes are started again from the newest state, after some were lost."""


def train_on_ray(config: TrainConfig) -> RunResult:
    """Run a training on a Ray cluster.

    Raises:
        InputError: ray is not installed, there is no such cluster, or as in `train`.
        TeacherCacheError: The run failed.
    """
    try:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
    except ImportError as error:
        raise InputError("--ray", "Ray is not installed.", "pip install 'teacher-cache[ray]'") from error
    dry_run(config)  # says what is wrong before any process is started
    names = [*_PATHS, "recipe"] if config.recipe and Path(config.recipe).exists() else _PATHS
    inner = dataclasses.replace(with_absolute_paths(config, names), ray=False, resume="auto")
    is_cuda = resolve_device(config.device).type == "cuda"
    try:
        session = ray.init(address=config.ray_address)
    except ConnectionError as error:
        raise InputError(
            f"--ray-address {config.ray_address}: {error}",
            "Nothing was trained.",
            "start a cluster: ray start --head",
        ) from error
    with session, tempfile.TemporaryDirectory() as folder:
        trainer = TorchTrainer(
            _work,
            train_loop_config=dataclasses.asdict(inner),
            scaling_config=ScalingConfig(num_workers=config.ray_ranks, use_gpu=is_cuda),
            run_config=RunConfig(
                storage_path=folder, failure_config=FailureConfig(max_failures=_MAX_FAILURES)
            ),
        )
        try:
            trainer.fit()
        except Exception as error:
            for failure in getattr(error, "worker_failures", {}).values():
                if isinstance(failure, TeacherCacheError):
                    raise failure from error
            raise TeacherCacheError(
                f"the run on Ray failed: {error}", "It is not done.", "the same command with --resume auto"
            ) from error
    return RunResult(**read_metrics(Store(inner.output))[-1]["result"])


def _work(settings: dict[str, Any]) -> None:
    """What each process does. Its argument has no default: Ray Train would not give it then."""
    train(TrainConfig(**settings), console)
