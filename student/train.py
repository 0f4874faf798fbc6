"""A training run: prepared, trained, evaluated; or described without being run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping

from student.build import build_trainer
from student.config import TrainConfig
from student.cost import model_cost
from student.loop import TrainingLoop
from student.metrics import Metrics, RunResult, opened_metrics, read_metrics
from student.prepare import describe, prepare
from student.ranks import joined
from student.state import load_state, refuse_other
from student.step import LiveTeacher, Teaching, stored_labels
from teacher_cache.program.progress import Track, silent
from teacher_cache.storage.store import Store

CONFIG_FILE = "config.json"


def train(
    config: TrainConfig,
    track: Track,
    teach: Teaching | None = None,
    tell: Callable[[Mapping[str, str]], None] | None = None,
) -> RunResult:
    """Run a training from its first batch, or where it was stopped, to its last, and evaluate the result.

    SIGTERM, the first SIGINT, and errors between two updates leave a state, from which --resume auto goes on.

    Args:
        config: The flags.
        track: Shows progress.
        teach: Who is asked for labels; if None, whom the flags name.
        tell: Is told by the first process what the run will be, before its first step.

    Raises:
        InputError: The request is wrong: see the errors of what it calls.
        TeacherCacheError: The loss is not finite, or memory ran out.
        KeyboardInterrupt: It was asked to stop, and did.
    """
    with joined(config.device) as ranks:
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
        )
        weights = (
            trainer.teach.teacher.spec.weights_sha256 if isinstance(trainer.teach, LiveTeacher) else None
        )
        run = dataclasses.replace(run, identity={**run.identity, "teacher's weights": weights})
        if run.progress is not None:
            refuse_other(run.progress.identity, run.identity, config.output)
            load_state(run.output, run.progress.updates, trainer)
        if not ranks.is_first:
            return TrainingLoop(run, trainer, Metrics(None), silent).run_to_end()
        if tell is not None:
            tell(describe(run))
        run.output.sweep()
        with opened_metrics(config, run.output, run.first_update) as metrics:
            run.output.put(CONFIG_FILE, json.dumps(dataclasses.asdict(config), indent=1).encode())
            return TrainingLoop(run, trainer, metrics, track).run_to_end()


def dry_run(config: TrainConfig, world_size: int | None = None) -> dict[str, str]:
    """Return what a run would be, having opened and checked all that it needs but its teacher.

    Args:
        config: Its flags.
        world_size: Of how many processes, if not of those that are here.

    Raises:
        InputError: The request is wrong.
    """
    with joined(config.device) as ranks:
        ranks = dataclasses.replace(ranks, world_size=world_size or ranks.world_size)
        run = prepare(config, ranks)
        alone = dataclasses.replace(ranks, world_size=1)  # nobody is there to be joined
        trainer = build_trainer(
            config, run.dataset.info, run.recipe.img_size, run.plan, alone, teach=stored_labels
        )
        cost = model_cost(trainer.model, run.recipe.img_size, trainer.autocast)
        memory_bytes = cost.memory_bytes(config.batch_size, has_ema=config.model_ema)
        return {
            **describe(run),
            "model": f"{config.model}, {cost.num_parameters:,} parameters, "
            f"{cost.flops / 1e9:,.1f} GFLOPs to train on a view",
            "memory": f"about {memory_bytes / 2**30:,.1f} GiB on each device, and the framework's own",
        }


def _result(output: Store) -> RunResult | None:
    """Return what a run ended with, or None if it did not."""
    last = read_metrics(output)[-1:]
    return RunResult(**last[0]["result"]) if last and "result" in last[0] else None
