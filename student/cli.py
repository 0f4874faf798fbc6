"""Command line `student`. Heavy imports wait until a command runs, so that --help is quick."""

from __future__ import annotations

import inspect
import shlex
import sys
from collections.abc import Mapping, Sequence

from student.config import EvalConfig, ReportConfig, RunsConfig, TrainConfig
from student.runs import RUNS
from teacher_cache.errors import InputError
from teacher_cache.program.commandline import Command, as_words, run_command, show
from teacher_cache.program.say import say, say_on_stderr


def _train(config: TrainConfig) -> int:
    from student.ranks import is_first_process
    from student.ray_launch import train_on_ray
    from student.train import dry_run, train
    from teacher_cache.program.progress import console

    if config.dry_run:
        said_of = dry_run(config, config.ray_ranks if config.ray else None)
        if is_first_process():
            say(_told(said_of))
        return 0
    try:
        result = train_on_ray(config) if config.ray else train(config, console, tell=_tell)
    except KeyboardInterrupt:
        say_on_stderr(f"student train: the same command with --resume auto goes on: {config.output}")
        raise
    if not is_first_process():
        return 0
    seconds = max(result.seconds, 1e-9)
    say(
        f"trained {result.steps:,} updates: {result.images:,} views in {result.seconds:,.1f} s, "
        f"{result.images / seconds:,.1f} images/s, data wait {result.data_wait_s / seconds:.1%}, "
        f"{result.tflops:,.2f} TFLOP/s{_share_of_peak(result.tflops, config.device)}: {config.output}"
    )
    averaged = {f"ema {head}": share for head, share in result.ema_accuracy.items()}
    for line in _accuracy_lines({**result.accuracy, **averaged}):
        say(line)
    return 0


def _told(run: Mapping[str, str]) -> str:
    return "\n".join(f"{what:16} {said}" for what, said in run.items())


def _tell(run: Mapping[str, str]) -> None:
    say_on_stderr(_told(run))


def _share_of_peak(tflops: float, device: str) -> str:
    """Return the model FLOPs utilisation as text; empty if the device's peak is not known."""
    from student.model import peak_flops
    from teacher_cache.models.create import resolve_device

    peak = peak_flops(resolve_device(device))
    return "" if peak is None else f", MFU {1e12 * tflops / peak:.1%}"


def _eval(config: EvalConfig) -> int:
    from student.checkpoint import load_student
    from student.evaluate import accuracy, evaluation_stream
    from student.ranks import Ranks
    from teacher_cache import PackedDataset
    from teacher_cache.models.create import normalization, resolve_device

    dataset = PackedDataset(config.data, config.room, config.images_in)
    if not dataset.index.is_labelled:
        raise InputError(
            f"--data {config.data} has images without labels",
            "There is no accuracy without true labels.",
            "give a dataset with labels",
        )
    model, about = load_student(config.checkpoint, dataset.info.class_list)
    mean, std = normalization(model)
    device = resolve_device(config.device)
    ranks = Ranks(0, 1, device)
    found = accuracy(
        model.to(device),
        evaluation_stream(
            dataset,
            img_size=about["img_size"],
            crop_pct=config.crop_pct,
            batch_size=config.batch_size,
            ranks=ranks,
        ),
        num_images=len(dataset),
        ranks=ranks,
        mean=mean,
        std=std,
        workers=config.workers,
    )
    show(config, found, _accuracy_lines(found))
    return 0


def _accuracy_lines(by_head: Mapping[str, float]) -> list[str]:
    return [f"accuracy {head:16} {share:7.2%}" for head, share in by_head.items()]


def _report(config: ReportConfig) -> int:
    from student.report import write_report

    say(str(write_report(config.runs, config.out)))
    return 0


def _runs(config: RunsConfig) -> int:
    del config
    for name, run in RUNS.items():
        say(
            f"{name}\n    {inspect.cleandoc(run.__doc__ or '')}".replace("\n\n", "\n").replace("\n", "\n    ")
        )
        say(f"    student train {shlex.join(as_words(run()))} --data DATA --output OUTPUT ...\n")
    return 0


COMMANDS = {
    "train": Command(TrainConfig, _train, RUNS),
    "eval": Command(EvalConfig, _eval),
    "report": Command(ReportConfig, _report),
    "runs": Command(RunsConfig, _runs),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `student` and return its exit code."""
    summary = "Train students from stored teacher labels, at the cost of plain training."
    return run_command("student", summary, COMMANDS, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
