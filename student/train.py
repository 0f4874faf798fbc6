"""Training runs: prepare, train and evaluate one, or describe it without running it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Mapping

from student.build import build_trainer
from student.config import TrainConfig, kept_flags
from student.loop import TrainingLoop
from student.metrics import Metrics, RunResult, opened_metrics, read_metrics
from student.model import model_cost
from student.prepare import Run, describe, prepare
from student.ranks import joined
from student.state import load_state, refuse_other, saved_updates
from student.step import LiveTeacher, Teaching, stored_labels
from teacher_cache.errors import InputError
from teacher_cache.exact.canonical import sha256_of
from teacher_cache.program.progress import Track, silent
from teacher_cache.storage.store import Store

CONFIG_FILE = "config.json"


def train(
    config: TrainConfig,
    track: Track,
    teach: Teaching | None = None,
    tell: Callable[[Mapping[str, str]], None] | None = None,
) -> RunResult:
    """Train from the first batch, or from the newest state, to the last batch, and evaluate the result.

    SIGTERM, the first SIGINT, and errors between two updates leave a state for --resume auto.

    Args:
        tell: Called with the run's description in the first process, before the first step.

    Raises:
        InputError: The request is wrong; see also `prepare`, `build_trainer` and `refuse_other`.
        TeacherCacheError: The loss is not finite, or memory ran out.
        KeyboardInterrupt: A signal stopped the run.
    """
    with joined(config.device) as ranks, contextlib.ExitStack() as held:
        run = prepare(config, ranks)
        if run.first_update >= run.plan.num_updates and (done := _result(run.output)) is not None:
            return done
        trainer = build_trainer(
            config,
            run.dataset.info,
            run.recipe.img_size,
            run.plan,
            ranks,
            affinity=run.archive.affinity if run.archive else None,
            teach=teach,
            num_classes=run.num_classes,
            has_true_labels=run.dataset.index.is_labelled,
        )
        live = trainer.teach.teacher.spec if isinstance(trainer.teach, LiveTeacher) else None
        digest = None if live is None else sha256_of(live.to_dict())
        run = dataclasses.replace(run, identity={**run.identity, "live teacher's digest": digest})
        if run.progress is not None:
            refuse_other(run.progress.identity, run.identity, config.output)
            load_state(run.output, run.progress.updates, trainer)
        opened: contextlib.AbstractContextManager[Metrics]
        if ranks.is_first:
            held.enter_context(run.output.exclusive(waits=False))
            _refuse_changed(run)
            if tell is not None:
                tell(describe(run))
            run.output.sweep()
            run.output.put(CONFIG_FILE, json.dumps(kept_flags(config), indent=1).encode())
            opened = opened_metrics(config, run.output, run.first_update)
        else:
            opened, track = contextlib.nullcontext(Metrics(None)), silent
        with opened as metrics:
            return TrainingLoop(run, trainer, metrics, track).run_to_end()


def dry_run(config: TrainConfig, world_size: int | None = None) -> dict[str, str]:
    """Return the description of a run, after opening and checking everything it needs but the teacher.

    Args:
        world_size: Number of processes; defaults to the number that are running now.

    Raises:
        InputError: The request is wrong.
    """
    with joined(config.device) as ranks:
        ranks = dataclasses.replace(ranks, world_size=world_size or ranks.world_size)
        run = prepare(config, ranks)
        alone = dataclasses.replace(ranks, world_size=1)  # no other process exists to join
        trainer = build_trainer(
            config,
            run.dataset.info,
            run.recipe.img_size,
            run.plan,
            alone,
            teach=stored_labels,
            num_classes=run.num_classes,
        )
        cost = model_cost(trainer.model, run.recipe.img_size, trainer.autocast)
        memory_bytes = cost.memory_bytes(config.batch_size, has_ema=config.model_ema)
        return {
            **describe(run),
            "model": f"{config.model}, {cost.num_parameters:,} parameters, "
            f"{cost.flops / 1e9:,.1f} GFLOPs to train on a view",
            "memory": f"about {memory_bytes / 2**30:,.1f} GiB on each device, and the framework's own",
        }


def _refuse_changed(run: Run) -> None:
    """Refuse a run whose folder got a state or files since it was prepared. Raises InputError."""
    is_new = run.config.resume == "never"
    newest = max(saved_updates(run.output), default=0)
    if newest != run.first_update or (is_new and run.output.list()):
        raise InputError(
            f"another process has just trained in --output {run.config.output}",
            "Its metrics and weights would be overwritten.",
            "choose a new folder, or go on with that run: --resume auto",
        )


def _result(output: Store) -> RunResult | None:
    """Return the result of a finished run, or None if the run has not finished."""
    last = read_metrics(output)[-1:]
    return RunResult(**last[0]["result"]) if last and "result" in last[0] else None
