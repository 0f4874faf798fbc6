"""Loop of a training run: train on one long stream of batches, evaluate, save; it can stop anywhere."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import torch

from student.checkpoint import hub_settings, push, save_weights
from student.evaluate import accuracy, evaluation_stream, main_head
from student.metrics import Metrics, RunResult, read_metrics
from student.model import model_cost
from student.prepare import Run
from student.state import RunProgress, save_state
from student.step import LiveTeacher, NonFiniteError, PendingUpdate, Trainer
from teacher_cache import ViewBatch
from teacher_cache.batches.transfer import on_device
from teacher_cache.errors import TeacherCacheError
from teacher_cache.exact.canonical import sha256_hex
from teacher_cache.following.student import Follower
from teacher_cache.program.flags import parse_kwargs
from teacher_cache.program.progress import Advance, Track
from teacher_cache.program.signals import StopSignals
from teacher_cache.stream.stream import ViewStream

LAST_FILE = "last.safetensors"
EMA_FILE = "ema.safetensors"
BEST_FILE = "best.safetensors"
_NAMED_KEYS = 8
_LOG_EVERY_S = 2.0  # a loss is shown from the start on, however long --log-interval is
_NO_MEMORY = re.compile("not enough memory|can.t allocate memory|out of memory")
"""Out-of-memory messages of torch's CPU allocators and of other devices' libraries."""


class TrainingLoop:
    """Training loop with its counters. All processes of a run do the same; only the first one writes."""

    def __init__(self, run: Run, trainer: Trainer, metrics: Metrics, track: Track) -> None:
        self._run, self._trainer, self._metrics, self._track = run, trainer, metrics, track
        self._best = run.progress.best if run.progress else None
        self._scores: dict[str, dict[str, float]] = {}
        self._pending: list[PendingUpdate] = []
        self._logged_updates = run.first_update
        """Number of updates whose lines are written."""
        self._is_savable = True
        """Whether a state may be saved: no evaluation is due before it, and all losses are finite."""
        self._unread = 0  # updates since all processes last read the losses
        self._wait_s = self._overhead_s = 0.0
        """Seconds spent on waiting for batches, and on evaluating and saving."""

    def run_to_end(self) -> RunResult:
        """Train, evaluate and save."""
        run, trainer = self._run, self._trainer
        cost = model_cost(trainer.model, run.recipe.img_size, trainer.autocast)
        self._start_s = time.monotonic()
        left = run.plan.num_updates - run.first_update
        with StopSignals() as signals, self._track("train", left, "updates") as advance:
            try:
                for batches in self._groups(lambda: signals.were_met):
                    self._update(batches, advance)
                    if signals.were_met and run.ranks.is_first:
                        raise KeyboardInterrupt
            except BaseException as error:
                self._save_and_raise(error, was_asked=signals.were_met)
        seconds = self._seconds()
        if not left:  # the run was stopped between its last update and its end
            self._scores = self._logged_scores()
        images = (trainer.updates - run.first_update) * run.plan.effective_batch
        result = RunResult(
            steps=trainer.updates,
            images=images,
            seconds=round(seconds, 3),
            data_wait_s=round(self._wait_s, 3),
            teacher_passes=trainer.teach.passes if isinstance(trainer.teach, LiveTeacher) else 0,
            accuracy=self._scores.get("accuracy", {}),
            ema_accuracy=self._scores.get("ema_accuracy", {}),
            tflops=round(cost.flops * images / run.ranks.world_size / max(seconds, 1e-9) / 1e12, 3),
        )
        if run.ranks.is_first:
            self._save_weights(LAST_FILE, trainer.model)
            if trainer.ema is not None:
                self._save_weights(EMA_FILE, trainer.ema.module)
            self._metrics({"result": dataclasses.asdict(result)})
            if run.config.push_to_hub is not None:
                kwargs = parse_kwargs(run.config.model_kwargs)
                settings = hub_settings(trainer.model, kwargs, run.recipe.img_size, run.config.crop_pct)
                push(trainer.model, run.config.push_to_hub, settings, run.output.path(LAST_FILE))
        return result

    def _groups(self, is_stopped: Callable[[], bool]) -> Iterator[list[ViewBatch]]:
        """Yield the batches of each remaining update, once their labels exist."""
        run, size = self._run, self._run.plan.stream.batches_per_update
        follower = Follower(run.stream, run.config.follow_timeout_s, is_first=run.ranks.is_first)
        follower.publish(sha256_hex(run.output.url.encode())[:16])
        loader = run.stream.loader(run.config.workers, pin_memory=run.ranks.device.type == "cuda")
        batches = on_device(loader, run.ranks.device)
        for update in range(run.first_update, run.plan.num_updates):
            start_s = time.monotonic()
            follower.wait(range(update * size, update * size + size), is_stopped)
            group = list(itertools.islice(batches, size))
            self._wait_s += time.monotonic() - start_s
            yield group

    def _update(self, batches: list[ViewBatch], advance: Advance) -> None:
        run, trainer = self._run, self._trainer
        step, lr = trainer.updates, trainer.lr
        values_4 = torch.stack(trainer.update(batches))
        rows = torch.cat([batch.rows_B for batch in batches])
        views = torch.cat([batch.views_B for batch in batches])
        self._pending.append(PendingUpdate(step, self._seconds(), lr, values_4, rows, views))
        is_last = trainer.updates == run.plan.num_updates
        is_evaluated = run.validation is not None and (is_last or self._ends_an_interval())
        is_saved = is_last or trainer.updates % run.config.checkpoint_interval == 0
        note = ""
        self._unread += 1
        if self._unread == run.config.log_interval or is_evaluated or is_saved:
            note, self._unread = self._log_pending(), 0
        elif run.ranks.is_first and self._seconds() - self._pending[0].seconds >= _LOG_EVERY_S:
            note = self._log_pending(is_early=True)
        start_s = time.monotonic()
        if is_evaluated:
            self._is_savable = False
            self._evaluate()
            self._is_savable = True
        if is_saved:
            self._save_state()
        self._overhead_s += time.monotonic() - start_s
        advance(1, note)

    def _seconds(self) -> float:
        """Return the seconds since the start, without those spent on evaluating and saving."""
        return time.monotonic() - self._start_s - self._overhead_s

    def _ends_an_interval(self) -> bool:
        interval = self._run.config.val_interval
        if interval is None:
            return False
        before, after = (self._run.plan.epoch(self._trainer.updates - back) for back in (1, 0))
        return before // interval != after // interval

    def _log_pending(self, *, is_early: bool = False) -> str:
        """Write pending updates' metrics, and return a summary of the last; only this waits for the device.

        If `is_early`, a loss that is not finite is left to the next read by all processes: all end together.

        Raises:
            TeacherCacheError: A loss is not finite.
        """
        run, pending = self._run, self._pending
        if not pending:
            return ""
        values_U4 = torch.stack([update.values_4 for update in pending]).tolist()
        are_finite = [math.isfinite(values[0]) for values in values_U4]
        num_read = are_finite.index(False) if is_early and not all(are_finite) else len(pending)
        self._pending, pending, values_U4 = pending[num_read:], pending[:num_read], values_U4[:num_read]
        if not pending:
            return ""
        seconds = self._seconds()
        for update, values in zip(pending, values_U4, strict=True):
            if not math.isfinite(values[0]):
                self._is_savable = False
                raise self._not_finite(update.step, update.rows)
            line: dict[str, Any] = {"step": update.step, "epoch": run.plan.epoch(update.step)}
            line |= dict(zip(("loss", "loss_label", "loss_distillation", "agreement"), values, strict=True))
            if run.config.distillation == "none":
                del line["agreement"]
            line |= {"lr": update.lr, "order": update.order, "seconds": round(update.seconds, 3)}
            self._metrics(line)
            self._logged_updates = update.step + 1
        done = self._trainer.updates - run.first_update
        said = [f"loss {values[0]:.3f}"]
        if run.config.distillation != "none":
            said.append(f"agreement {values[3]:.0%}")
        said.append(f"{done * run.plan.effective_batch / max(seconds, 1e-9):,.0f} images/s")
        said.append(f"data wait {self._wait_s / max(seconds, 1e-9):.0%}")
        return ", ".join(said)

    def _evaluate(self) -> None:
        """Evaluate the weights and their average, and keep the best so far."""
        run, trainer = self._run, self._trainer
        if run.validation is None:
            return
        candidates = {"accuracy": trainer.model}
        if trainer.ema is not None:
            candidates["ema_accuracy"] = trainer.ema.module
        for model in candidates.values():
            run.ranks.align(model)
        self._scores = {
            name: accuracy(
                model,
                self._validation,
                num_images=len(run.validation),
                ranks=run.ranks,
                mean=trainer.mean,
                std=trainer.std,
                workers=run.config.workers,
            )
            for name, model in candidates.items()
        }
        self._metrics({"step": trainer.updates - 1, **self._scores})
        for name, model in candidates.items():
            share = main_head(self._scores[name])
            if self._best is None or share > self._best:
                self._best = share
                self._save_weights(BEST_FILE, model)

    @functools.cached_property
    def _validation(self) -> ViewStream:
        """Stream of the validation images, whose processes serve all evaluations of the run."""
        run = self._run
        assert run.validation is not None
        return evaluation_stream(
            run.validation,
            img_size=run.recipe.img_size,
            crop_pct=run.config.crop_pct,
            batch_size=run.config.batch_size,
            ranks=run.ranks,
        )

    def _logged_scores(self) -> dict[str, dict[str, float]]:
        """Return the accuracies of the last evaluation in metrics.jsonl."""
        scored = [line for line in read_metrics(self._run.output) if "accuracy" in line]
        return {
            name: scored[-1][name] for name in ("accuracy", "ema_accuracy") if scored and name in scored[-1]
        }

    def _save_and_raise(self, error: BaseException, *, was_asked: bool) -> NoReturn:
        """Save a state to resume from if possible, and raise the error that explains why the run ends.

        Raises:
            KeyboardInterrupt: The run was asked to stop.
            TeacherCacheError: The loss is not finite, or memory ran out.
            BaseException: Any other error, unchanged.
        """
        run, updates = self._run, self._trainer.updates
        newest = run.first_update
        if self._trainer.is_whole and updates > run.first_update:
            self._log_pending()
            if self._is_savable and self._logged_updates == updates:
                self._save_state()
                newest = updates
        saved = f"the newest state is that after {newest:,} updates" if newest else "there is no state yet"
        if was_asked:
            raise KeyboardInterrupt from error
        if isinstance(error, NonFiniteError):
            rows = torch.cat([batch.rows_B for batch in error.batches])
            raise self._not_finite(updates, rows) from error
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or _NO_MEMORY.search(str(error)):
            reason = str(error).partition("\n")[0] or type(error).__name__
            half, rest = divmod(run.config.batch_size, 2)
            same = f"--batch-size {half} --grad-accum-steps {2 * run.config.grad_accum_steps}"
            remedy = f"continue with --resume auto {same}, which makes the same updates with less memory"
            raise TeacherCacheError(
                f"out of memory after {updates:,} updates: {reason}",
                f"Training stopped; {saved}.",
                "lower --batch-size" if rest else remedy,
            ) from error
        raise error

    def _not_finite(self, update: int, rows: torch.Tensor) -> TeacherCacheError:
        """Write this process's sample keys of an update to a file, and return an error that names them."""
        run = self._run
        keys = [run.dataset.index.key(row) for row in rows.tolist()]
        name = f"non-finite-{run.ranks.rank}.json"
        run.output.put(name, json.dumps({"update": update, "keys": keys}, indent=1).encode())
        return TeacherCacheError(
            f"the loss of update {update:,} is not finite: samples {', '.join(keys[:_NAMED_KEYS])}, all "
            f"{len(keys):,} in {run.output.path(name)}",
            "Training stopped; the newest state in --output is of before it.",
            "lower --lr, set --clip-grad 1, or choose --precision float32; look at these samples",
        )

    def _save_state(self) -> None:
        run = self._run
        if run.ranks.is_first:
            self._metrics.flush()
            progress = RunProgress(self._trainer.updates, self._best, run.identity)
            save_state(run.output, self._trainer, progress, run.config.checkpoint_hist)

    def _save_weights(self, name: str, model: torch.nn.Module) -> None:
        run = self._run
        if not run.ranks.is_first:
            return
        about = {
            "model": run.config.model,
            "model_kwargs": parse_kwargs(run.config.model_kwargs),
            "num_classes": run.num_classes,
            "img_size": run.recipe.img_size,
        }
        if run.dataset.info.classes:
            about["classes_sha256"] = run.dataset.info.class_list.sha256
        save_weights(run.output, name, model, about)
