"""The command line `student`. Heavy imports wait until a command runs, so that --help is quick."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from student.config import EvalConfig, TrainConfig
from teacher_cache.commandline import Command, run_command


def _train(config: TrainConfig) -> int:
    from student.loop import train
    from teacher_cache.progress import console

    result = train(config, console)
    rate = result.images / max(result.seconds, 1e-9)
    print(f"trained {result.steps:,} steps in {result.seconds:,.1f} s, {rate:,.1f} images/s: {config.output}")
    _print_accuracy(result.accuracy)
    return 0


def _eval(config: EvalConfig) -> int:
    from student.checkpoint import load_student
    from student.evaluate import accuracy
    from teacher_cache.dataset.shards import PackedDataset
    from teacher_cache.models import normalization, resolve_device

    dataset = PackedDataset(config.data, config.room)
    model, about = load_student(config.checkpoint, dataset.info.classes_sha256)
    mean, std = normalization(model)
    device = resolve_device(config.device)
    found = accuracy(
        model.to(device),
        dataset,
        img_size=about["img_size"],
        crop_pct=config.crop_pct,
        batch_size=config.batch_size,
        device=device,
        mean=mean,
        std=std,
        workers=config.workers,
    )
    if config.json:
        print(json.dumps(found))
    else:
        _print_accuracy(found)
    return 0


def _print_accuracy(by_head: dict[str, float]) -> None:
    for head, share in by_head.items():
        print(f"accuracy {head:12} {share:7.2%}")


COMMANDS = {
    "train": Command(TrainConfig, _train),
    "eval": Command(EvalConfig, _eval),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `student` and return its exit code."""
    summary = "Train students from stored teacher labels, at the cost of plain training."
    return run_command("student", summary, COMMANDS, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    sys.exit(main())
