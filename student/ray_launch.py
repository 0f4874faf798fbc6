"""Training in processes that Ray Train starts; each of them calls `train`."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

from student.config import TrainConfig
from student.metrics import RunResult, read_metrics
from student.train import dry_run, train
from teacher_cache.errors import InputError, TeacherCacheError
from teacher_cache.models.create import resolve_device
from teacher_cache.program.flags import with_absolute_paths
from teacher_cache.program.progress import console
from teacher_cache.storage.store import Store

_MAX_FAILURES = 3
"""Number of times that all processes are started again from the newest state, after any error."""


def train_on_ray(config: TrainConfig) -> RunResult:
    """Run a training on a Ray cluster.

    Raises:
        InputError: Ray is not installed, or there is no such cluster; see also `train`.
        TeacherCacheError: The run failed.
    """
    try:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        from teacher_cache.program.ray_session import connect
    except ImportError as error:
        raise InputError("--ray", "Ray is not installed.", "pip install 'teacher-cache[ray]'") from error
    is_file = config.recipe is not None and Path(config.recipe).exists()
    config = with_absolute_paths(config, also=["recipe"] if is_file else [])
    dry_run(config, config.ray_ranks)  # finds errors in the request before any process is started
    inner = dataclasses.replace(config, ray=False, ray_ranks=1, ray_address=None, resume="auto")
    is_cuda = resolve_device(config.device).type == "cuda"
    connect(config.ray_address, "--ray-address")
    with contextlib.ExitStack() as ends:
        ends.callback(ray.shutdown)
        folder = ends.enter_context(tempfile.TemporaryDirectory())
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
                f"the run on Ray failed: {error}", "The run is incomplete.", "run again with --resume auto"
            ) from error
    return RunResult(**read_metrics(Store(inner.output))[-1]["result"])


def _work(settings: dict[str, Any]) -> None:
    """Train in one process. Ray Train passes `settings` only because the parameter has no default."""
    train(TrainConfig(**settings), console)
