"""What tests share: small images of every kind, folders of them, flags of a small extraction, servers."""

from __future__ import annotations

import atexit
import functools
import io
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import tiny_teacher
import torch
from PIL import Image

from benchmarks.remote import S3 as S3
from benchmarks.remote import free_port as free_port
from benchmarks.remote import started as started
from teacher_cache.archive.format.companions import is_companion
from teacher_cache.labels.class_list import ClassList
from teacher_cache.models.create import create_model
from teacher_cache.models.kinds import TeacherSettings
from teacher_cache.models.teacher import Teacher, build_teacher

CLASSES = ("ant", "bee", "cat")
IMAGES_PER_CLASS = 11
SHARD_SIZE = 8
IMG_SIZE = 32
K = 2
PATIENCE_S = 300.0
"""A deadline for what should take seconds: a machine may be busy, but nothing waits for ever."""
TEACHER = "python:tiny_teacher:build"
TIMM_TEACHER = "regnety_002"
_HEAD_GAIN = {TEACHER: 200, TIMM_TEACHER: 1000}
"""An untrained head says nearly the same of every image; times this, it tells them apart."""


forked = multiprocessing.get_context("forkserver")
"""Context whose processes have imported torch before they begin, so that a program starts in milliseconds."""
forked.set_forkserver_preload(
    [
        *("support", "student.train", "student.cli", "pandas", "numba.np.arraymath"),
        *("pipelines.cli", "pipelines.extraction.running.extract", "pipelines.extraction.worker.worker"),
    ]
)


@functools.cache
def teacher_checkpoint(teacher: str = TEACHER) -> str:
    """Write the weights of a small teacher that tells images apart, and return their path."""
    if teacher == TEACHER:
        weights, head = tiny_teacher.build(len(CLASSES)).module.state_dict(), "head.weight"
    else:
        model = create_model(teacher, num_classes=len(CLASSES), img_size=IMG_SIZE)
        weights, head = model.state_dict(), "head.fc.weight"
    weights[head] *= _HEAD_GAIN[teacher]
    file = Path(tempfile.mkdtemp(prefix="teacher-")) / "weights.safetensors"
    safetensors.torch.save_file(weights, file)
    atexit.register(shutil.rmtree, file.parent)
    return str(file)


def picture(seed: int, height: int, width: int) -> Image.Image:
    """Return an RGB image of smooth waves, so that lossy codecs have something to do."""
    rows, columns = np.mgrid[0:height, 0:width]
    waves = [
        128 + 110 * np.sin((seed + 2) * rows / 31 + c) * np.cos(columns / (7 + c + seed % 5))
        for c in range(3)
    ]
    return Image.fromarray(np.stack(waves, axis=-1).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """Return an image's bytes in a format."""
    with io.BytesIO() as buffer:
        image.save(buffer, kind, **options)
        return buffer.getvalue()


def wait_until(
    is_met: Callable[[], object], is_running: Callable[[], bool] = lambda: True, within_s: float = PATIENCE_S
) -> None:
    """Wait until a condition is met, or what was to meet it no longer runs; fail after `within_s` seconds."""
    end_s = time.monotonic() + within_s
    while not is_met() and is_running():
        assert time.monotonic() < end_s, f"not met within {within_s:g} s"
        time.sleep(0.001)


def write_class_folders(root: Path, per_class: int = IMAGES_PER_CLASS) -> Path:
    """Write root/<class>/<number>.jpg|png|webp of several sizes."""
    kinds = [("jpg", "JPEG"), ("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")]
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for number in range(per_class):
            extension, kind = kinds[number % len(kinds)]
            image = picture(label * 100 + number, 40 + 3 * number, 64 - 2 * number)
            (root / name / f"{name}{number:02d}.{extension}").write_bytes(encoded(image, kind))
    return root


def timm_teacher() -> dict[str, str]:
    """Return the flags of a small teacher of timm's, for tests that need one of its kind."""
    return {"teacher": TIMM_TEACHER, "checkpoint": teacher_checkpoint(TIMM_TEACHER)}


def built_teacher(
    name: str, *, classes: ClassList, img_size: int, compare_names: bool = True, **settings: Any
) -> Teacher:
    """A teacher on the CPU."""
    asked = TeacherSettings(name=name, device="cpu", **settings)
    return build_teacher(asked, classes=classes, img_size=img_size, compare_names=compare_names)


def extract_flags(data: str, out: str | Path, **changes: object) -> list[str]:
    """Return the arguments of a small extraction; `changes` replace, add or, if None, drop flags."""
    flags = {
        "data": data,
        "out": out,
        "img_size": IMG_SIZE,
        "views": "0:3",
        "topk": K,
        "views_per_unit": 2,
        "teacher": TEACHER,
        "checkpoint": teacher_checkpoint(),
        **changes,
    }
    words = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items() if value is not None]
    return ["extract", *words]


def begun(
    main: Callable[[list[str]], int], words: list[str], log: Path | None = None
) -> multiprocessing.process.BaseProcess:
    """Begin a program in a process of its own, with one thread; `log` is what it says on stderr."""
    process = forked.Process(target=run_in_a_thread_of_its_own, args=(main, words, log))
    process.start()
    return process


def begun_as_two_ranks(
    main: Callable[[list[str]], int | None], words: list[str]
) -> list[multiprocessing.process.BaseProcess]:
    """Begin two processes of a program that are two ranks, with the environment that torchrun gives them."""
    port = free_port()
    ranks = [forked.Process(target=_run_as_rank, args=(rank, port, main, words)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    return ranks


def _run_as_rank(rank: int, port: int, main: Callable[[list[str]], int | None], words: list[str]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "tests"}
    run_in_a_thread_of_its_own(main, words, None)


def run_in_a_thread_of_its_own(
    main: Callable[[list[str]], int | None], words: list[str], log: Path | None
) -> None:
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # of what renders: as where a shell started this
    if log is not None:
        os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT), 2)
    sys.exit(main(words))


def ended(
    main: Callable[[list[str]], int], words: list[str], environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end in a process of its own and in that environment; return what it printed."""
    with tempfile.TemporaryDirectory(prefix="program-") as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = forked.Process(target=_run_in_environment, args=(main, words, dict(environment), out, err))
        process.start()
        process.join(PATIENCE_S)
        process.kill()  # which one that has ended does not notice
        process.join()
        assert process.exitcode is not None
        return subprocess.CompletedProcess(words, process.exitcode, out.read_text(), err.read_text())


def _run_in_environment(
    main: Callable[[list[str]], int], words: list[str], environment: dict[str, str], out: Path, err: Path
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    for descriptor, file in ((1, out), (2, err)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT), descriptor)
    run_in_a_thread_of_its_own(main, words, None)


def labels_tree(folder: str | Path) -> dict[str, bytes]:
    """Return every file of an archive with its bytes, without its companions."""
    return {name: data for name, data in tree(folder).items() if not is_companion(name)}


def tree(folder: str | Path) -> dict[str, bytes]:
    """Return every file below a folder with its bytes."""
    root = Path(folder)
    return {str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def new_key(folder: Path, name: str = "key") -> Path:
    """Make a key for signatures, as the documents say."""
    file = folder / name
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", file], check=True)
    return file
