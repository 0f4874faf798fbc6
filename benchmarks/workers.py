"""Cost of processes that render: private memory, and the time to the first batch of two epochs.

    python -m benchmarks.workers --images FOLDER

For each start method of multiprocessing a script of its own, which has imported torch, reads two epochs of
LabelledViews. The peer is torch's DataLoader with as many workers, which render the same views by the same
code: what differs is what a process holds and how long it lives. Memory is private (Private_Clean and
Private_Dirty of smaps_rollup), the mean of the workers while they render. The memory of an idle service is
that of its server process.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

from msgspec import Meta
from rich.console import Console
from rich.table import Table

from benchmarks.common import write_json, write_photographs
from benchmarks.machine import environment
from benchmarks.serving import untrained_service
from pipelines.cli import main as teacher_cache_main
from teacher_cache.errors import TeacherCacheError
from teacher_cache.program.commandline import Command, run_single
from teacher_cache.program.flags import Flags

METHODS = ("fork", "forkserver", "spawn")
_IMAGES = 512
_PACKAGES = ("torch", "numba", "numpy", "pyarrow", "simplejpeg")
_SCRIPT = """
import json, multiprocessing, os, sys, time
from pathlib import Path

import torch

from teacher_cache import LabelledViews

def private_mb(pid):
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024

class Peer(torch.utils.data.IterableDataset):
    def __init__(self, views, batches):
        self.stream, self.batches = views._stream, batches
    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        for task in list(self.stream.tasks(self.batches))[worker.id :: worker.num_workers]:
            for batch in self.stream._renderer.render(task):
                yield torch.from_numpy(batch.images_RHWC)

def first_s(batches, start_s):
    for number, batch in enumerate(batches):
        (batch if torch.is_tensor(batch) else batch.images_RCHW).sum()  # a page that was read is shared
        if number == 0:
            found = time.perf_counter() - start_s
        if number == 3:
            children = {child.pid for child in multiprocessing.active_children()}
            memory = [private_mb(pid) for pid in children]
    return found, sum(memory) / len(memory)

if __name__ == "__main__":
    method, who, data, labels, batch_size, workers = sys.argv[1:]
    multiprocessing.set_start_method(method)
    torch.set_num_threads(1)
    views = LabelledViews(data, labels=labels, batch_size=int(batch_size))
    found = {}
    for epoch in range(2):
        start_s = time.perf_counter()
        if who == "ours":
            batches = views.epoch(epoch, workers=int(workers))
        else:
            numbers = range(epoch * len(views), (epoch + 1) * len(views))
            peer = Peer(views, numbers)
            batches = torch.utils.data.DataLoader(peer, batch_size=None, num_workers=int(workers))
        found[f"epoch_{epoch}_s"], found["private_mb"] = first_s(batches, start_s)
    print(json.dumps(found))
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkersConfig(Flags):
    """Measure processes that render, under each start method, beside torch's DataLoader."""

    images: str | None = None
    """Folder of class folders of images; by default photographs are made."""
    img_size: Annotated[int, Meta(ge=1)] = 224
    """Side of a view in pixels."""
    batch_size: Annotated[int, Meta(ge=1)] = 32
    """Views in a batch."""
    workers: Annotated[int, Meta(ge=1)] = 2
    """Processes that render."""
    repeats: Annotated[int, Meta(ge=1)] = 5
    """Scripts run for each start method, ours and the peer's in turn."""
    json: str | None = None
    """File for the result."""


def run(config: WorkersConfig) -> int:
    """Measure, print a table, and return 0."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data, labels = _prepare(config, root)
        found: dict[str, list[dict[str, float]]] = {}
        for _ in range(config.repeats):
            for method in METHODS:
                for who in ("ours", "peer"):
                    found.setdefault(f"{method}, {who}", []).append(
                        _script(config, method, who, data, labels)
                    )
        server_mb = _idle_server_mb(root, data)
    table = Table(title=f"{config.workers} processes, {config.img_size} px, batches of {config.batch_size}")
    for header in ("who", "private MB", "first batch, epoch 0: s", "min to max", "epoch 1: s", "min to max"):
        table.add_column(header, justify="left" if header == "who" else "right")
    medians = {}
    for name, runs in found.items():
        columns = {key: [run[key] for run in runs] for key in runs[0]}
        medians[name] = {key: round(statistics.median(values), 3) for key, values in columns.items()}
        spans = [f"{min(columns[key]):.2f} to {max(columns[key]):.2f}" for key in ("epoch_0_s", "epoch_1_s")]
        middle = medians[name]
        table.add_row(
            name,
            f"{middle['private_mb']:.0f}",
            f"{middle['epoch_0_s']:.2f}",
            spans[0],
            f"{middle['epoch_1_s']:.2f}",
            spans[1],
        )
    table.add_row("idle server", f"{server_mb:.0f} (RSS)", "", "", "", "")
    Console(width=110).print(table)
    settings = dataclasses.asdict(config) | {"json": None, "images": config.images and "given"}
    result = {"medians": medians, "runs": found, "idle_server_rss_mb": server_mb}
    write_json(config.json, {"benchmark": "workers", **environment(_PACKAGES), "config": settings, **result})
    return 0


def _prepare(config: WorkersConfig, root: Path) -> tuple[str, str]:
    images = config.images
    if images is None:
        images = str(root / "images")
        write_photographs(Path(images), _IMAGES)
    data, labels = str(root / "data"), str(root / "labels")
    commands = [
        ["pack", images, data, "--shard-size", "128"],
        [
            *("extract", f"--data={data}", "--teacher=regnety_002", "--no-pretrained", f"--out={labels}"),
            *(f"--img-size={config.img_size}", "--views=0:2", "--topk=5", "--device=cpu"),
        ],
    ]
    for words in commands:
        if teacher_cache_main(words) != 0:
            raise TeacherCacheError(f"{words[0]} failed")
    return data, labels


def _script(config: WorkersConfig, method: str, who: str, data: str, labels: str) -> dict[str, float]:
    words = [method, who, data, labels, str(config.batch_size), str(config.workers)]
    with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
        file.write(_SCRIPT)
        file.flush()
        done = subprocess.run(
            [sys.executable, file.name, *words],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return json.loads(done.stdout.splitlines()[-1])


def _idle_server_mb(root: Path, data: str) -> float:
    """Return the resident memory of a service's server process before any job."""
    serving = untrained_service(root, "photographs", data)
    serving.start()
    try:
        assert serving.process is not None
        status = Path(f"/proc/{serving.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024
    finally:
        serving.kill()


if __name__ == "__main__":
    sys.exit(run_single("python -m benchmarks.workers", Command(WorkersConfig, run), sys.argv[1:]))
