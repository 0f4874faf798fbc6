"""A pack that is killed goes on, shard by shard, to the same bytes."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from layouts import IMAGES, pack_to, write_files
from support import tree

from teacher_cache.dataset.packing.pack import PackOptions, pack
from teacher_cache.dataset.sources.open import open_source
from teacher_cache.errors import DatasetError
from teacher_cache.program.progress import silent
from teacher_cache.storage.local import LocalStore

PACK = [sys.executable, "-m", "pipelines.cli", "pack"]


class Stopped(BaseException):
    """An end that no handler of the program expects, as a kill is."""


class StoppingStore(LocalStore):
    """Store that ends the program when an object of some number is put."""

    def __init__(self, url: Path, puts: int) -> None:
        super().__init__(url)
        self.puts = puts

    def put(self, name: str, data: bytes) -> None:
        if not self.puts:
            raise Stopped
        self.puts -= 1
        super().put(name, data)


def test_a_pack_goes_on_from_every_object(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", [f"{number % 3}/{number:02d}.jpg" for number in range(22)])
    (source / "1" / "22.jpg").write_bytes(IMAGES[0][:-200])
    options = {"shard_size": 5, "skip_corrupt": True, "workers": 2}
    pack_to(source, tmp_path / "whole", **options)
    ends = 0
    for puts in range(30):
        out = tmp_path / f"out{puts}"
        while True:
            try:
                pack(open_source(str(source)), StoppingStore(out, puts), PackOptions(**options), silent)
            except Stopped:
                ends += 1
                pack_to(source, out, **options)
            break
        assert tree(out) == tree(tmp_path / "whole"), puts
    assert ends == 13  # the plan, two objects for each of five shards, the index, dataset.json


def test_an_unfinished_pack_of_another_request_is_left_alone(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", [f"{number % 3}/{number}.jpg" for number in range(9)])
    with pytest.raises(Stopped):
        pack(
            open_source(str(source)),
            StoppingStore(tmp_path / "out", 4),
            PackOptions(shard_size=2),
            silent,
        )
    before = tree(tmp_path / "out")
    with pytest.raises(DatasetError, match="unfinished pack of another source, or with other flags"):
        pack_to(source, tmp_path / "out", shard_size=3)
    write_files(source, ["0/new.jpg"])
    with pytest.raises(DatasetError, match="unfinished pack of another source"):
        pack_to(source, tmp_path / "out", shard_size=2)
    assert tree(tmp_path / "out") == before


@pytest.mark.kill
@pytest.mark.parametrize("wanted", [2, pytest.param(5, marks=pytest.mark.soak)])
def test_sigkill_at_random_moments_changes_no_byte(wanted: int, tmp_path: Path) -> None:
    names = [f"{number % 3}/{number}.jpg" for number in range(800 * wanted)]
    source = write_files(tmp_path / "in", names)
    pack_to(source, tmp_path / "whole", shard_size=200, crops=True)
    words = [*PACK, str(source), str(tmp_path / "out"), "--shard-size=200"]
    moments, kills = random.Random(0), 0
    for _ in range(wanted):
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        there = len(list((tmp_path / "out").glob("*.tar")))
        while process.poll() is None and len(list((tmp_path / "out").glob("*.tar"))) < there + 2:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills >= wanted - 1
    assert subprocess.run(words, capture_output=True, check=False).returncode in (0, 2)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
