"""Read mutated documents and files in every way, and count what each reader makes of them."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import io
import os
import random
import resource
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.attack_ground import Ground, bytes_of
from benchmarks.attack_mutations import mutate
from pipelines.cli import main
from pipelines.explorer.collection import Collection
from pipelines.explorer.pages import Explorer
from student.cli import main as student_main
from teacher_cache import LabelledViews, open_labels
from teacher_cache.archive.format.trust import trust_of
from teacher_cache.archive.readers.archive import ArchiveReader
from teacher_cache.archive.verify import problems_of, reader_to_verify
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.errors import InputError
from teacher_cache.labels.topk import Labels
from teacher_cache.program.progress import silent
from teacher_cache.sharing.catalog_file import read_catalog
from teacher_cache.storage.store import Store

_LIMIT_S, _LIMIT_BYTES = 30, 2**30
_HEAVY = ("extract --catalog-key", "student train --key")
"""Ways of reading that build a model, and are taken for one mutation in fifty."""
Outcome = str


def readers(ground: Ground, folder: Path, out: Path) -> dict[str, Callable[[], Outcome]]:
    """Return each way of reading what lies in a folder, by name; a function returns what it found."""
    data, place, labels, tars = (str(folder / name) for name in ("data", "place", "labels", "tars"))
    right_labels = ArchiveReader(str(ground.whole / "labels"))
    signed = dataclasses.replace(trust_of(ground.key), seen=None)

    def labels_with_key() -> Outcome:
        return _same(ground, ArchiveReader(labels, trust=signed))

    def verified() -> Outcome:
        reader = reader_to_verify(labels)
        return "problems named" if problems_of(reader, "full", silent) else "no problems"

    def pulled() -> Outcome:
        code = main(["pull", labels, str(out / "pulled"), f"--key={ground.key}"])
        return _code(code) if code else _same(ground, ArchiveReader(str(out / "pulled")))

    def taken() -> Outcome:
        flags = [
            "--teacher=regnety_002",
            "--recipe=rrc",
            "--img-size=32",
            "--views=0:2",
            "--views-per-unit=1",
        ]
        flags += ["--topk=2", f"--data={ground.whole / 'data'}", "--no-pretrained", f"--out={out / 'taken'}"]
        flags += [f"--catalog={folder}", f"--catalog-key={ground.key}"]
        return _code(main(["extract", *flags])) if read_catalog(Store(folder)).archives else "nothing listed"

    def images() -> Outcome:
        for url, allowed in ((data, ()), (place, (str(ground.whole / "wds"),))):
            dataset = PackedDataset(url, images_in=allowed)
            for row in range(len(dataset)):
                if dataset.image_bytes(row) not in ground.images:
                    return "OTHER IMAGE"
        return "right"

    def views() -> Outcome:
        batch = next(LabelledViews(data, labels, batch_size=4, key=ground.key).epoch(0))
        right = right_labels.lookup(batch.rows_B.numpy(), batch.views_B.numpy())
        is_right = isinstance(batch.labels, Labels) and torch.equal(
            batch.labels.class_ids_BK, right.class_ids_BK
        )
        return "right" if is_right else "OTHER LABELS"

    def pages() -> Outcome:
        explorer = Explorer(Collection(ArchiveReader(labels), PackedDataset(str(ground.whole / "data"))))
        html = [explorer.overview(), explorer.samples("row", None, 0), explorer.class_list(0)]
        html += [explorer.confusions(), explorer.sample(0, 0)]
        return "SCRIPT" if any("<script>window.hit" in (page or "") for page in html) else "shown"

    def exported() -> Outcome:
        return _same(ground, open_labels(tars))

    def carded() -> Outcome:
        return _code(main(["card", labels, "--name=x", "--json"]))

    def catalogued() -> Outcome:
        return _code(main(["catalog", str(folder)]))

    def status() -> Outcome:
        return _code(main(["status", labels, "--json"]))

    def trained() -> Outcome:
        flags = [f"--data={data}", f"--labels={labels}", "--distillation=soft", "--batch-size=4", "--dry-run"]
        flags += ["--model-kwargs", "embed_dim=48", "depth=1", "num_heads=3", "img_size=32"]
        return _code(student_main(["train", *flags, f"--output={out / 'run'}", f"--key={ground.key}"]))

    def reported() -> Outcome:
        return _code(student_main(["report", str(folder / "run"), f"--out={out / 'report.html'}"]))

    return {
        "student report": reported,
        "labels, with a key": labels_with_key,
        "verify --level full": verified,
        "pull --key": pulled,
        "extract --catalog-key": taken,
        "images": images,
        "LabelledViews, with a key": views,
        "explorer": pages,
        "exported tars": exported,
        "card": carded,
        "catalog": catalogued,
        "status": status,
        "student train --key": trained,
    }


def _same(ground: Ground, reader: Any) -> Outcome:
    found = {shard: bytes_of(reader, shard) for shard in ground.labels}
    return "right" if found == ground.labels else "OTHER LABELS"


def _code(code: int) -> Outcome:
    return {0: "done", 1: "said what is wrong", 2: "refused"}.get(code, f"EXIT CODE {code}")


BAD = ("OTHER", "SCRIPT", "EXIT", "TRACEBACK", "TOO LONG", "MEMORY", "OUTSIDE")
"""Beginnings of outcomes that must not be met."""


class Watch:
    """Record of what this process opens, runs and connects to, by Python's audit hook."""

    def __init__(self, roots: Sequence[str]) -> None:
        self.found: list[str] = []
        self._roots, self.is_on = tuple(roots), False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        if event in (
            "socket.connect",
            "socket.getaddrinfo",
            "os.system",
            "os.exec",
            "subprocess.Popen",
            "os.posix_spawn",
        ):
            self.found.append(f"{event} {str(arguments[:2])[:80]}")
        elif event == "open" and isinstance(arguments[0], str):
            path = os.path.realpath(arguments[0])
            if not path.startswith(self._roots):
                self.found.append(f"open {path[:80]}")


def run(
    ground: Ground, folder: Path, count: int, seed: int
) -> tuple[dict[str, collections.Counter[str]], list[str]]:
    """Read `count` mutated copies of the ground in every way; return outcomes by reader, and the failures."""
    rng, failures = random.Random(seed), list[str]()
    tally: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    # what Python, its libraries and the system's own settings need, and nothing of a user's
    roots = [
        sys.prefix,
        sys.base_prefix,
        "/proc",
        "/sys",
        "/usr",
        "/dev",
        "/etc/localtime",
        "/etc/ssl",
        "/lib",
    ]
    own = [str(folder), str(ground.whole.parent), str(Path(__file__).parents[1])]
    watch = Watch([*roots, *map(os.path.realpath, own)])
    copy, out = folder / "copy", folder / "out"
    for number in range(count):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(ground.whole, copy, symlinks=True)
        what = mutate(copy, rng)
        ways = readers(ground, copy, out)
        light = sorted(set(ways) - set(_HEAVY))
        some = ways if number % 50 == 0 else {name: ways[name] for name in rng.sample(light, 2)}
        for name, read in some.items():
            shutil.rmtree(out, ignore_errors=True)
            outcome = _outcome(read, watch)
            tally[name][outcome.partition(":")[0]] += 1
            if outcome.startswith(BAD):
                failures.append(f"mutation {number}, {what}, {name}: {outcome}")
    return tally, failures


def _outcome(read: Callable[[], Outcome], watch: Watch) -> Outcome:
    """Return what a way of reading ends in, within the limits of time and memory."""

    def too_long(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(_LIMIT_S)
    watch.found.clear()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            watch.is_on = True
            found = read()
    except InputError:
        found = "refused"
    except TimeoutError:
        found = "TOO LONG"
    except Exception:
        found = f"TRACEBACK: {traceback.format_exc()[-1500:]}"
    finally:
        watch.is_on = False
        signal.alarm(0)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if watch.found:
        return f"OUTSIDE: {'; '.join(watch.found[:3])}"
    if grown > _LIMIT_BYTES:
        return f"MEMORY: {grown:,} bytes more"
    if "Traceback" in said.getvalue():
        return f"TRACEBACK: {said.getvalue()[-1500:]}"
    return found
