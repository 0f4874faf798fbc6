"""push and pull where processes are killed and the network is faulty: the same archive in the end."""

import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
from support import S3, free_port, labels_tree, started, tree, wait_until

from benchmarks.copies import fake_spec, write_fake_archive
from pipelines.cli import main
from teacher_cache.storage.store import Store

_UNITS = 6 * 60
_WORKERS = 2


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of many small units by a teacher that does not exist."""
    folder = tmp_path_factory.mktemp("fake") / "archive"
    write_fake_archive(Store(folder), fake_spec(6, 50, 2), _UNITS // 6)
    return folder


def inodes(folder: Path) -> dict[str, int]:
    """Return the inode of each whole object of labels: another inode is another write."""
    objects = folder.glob("labels.zarr/*/c/*/*/*")
    # A killed process leaves files that it had not published; the next one deletes them.
    return {
        str(file.relative_to(folder)): file.stat().st_ino for file in objects if ".partial-" not in file.name
    }


@pytest.mark.kill
@pytest.mark.slow
def test_a_pull_that_is_killed_goes_on_and_moves_one_unit_a_worker_twice_at_most(
    archive: Path, tmp_path: Path
) -> None:
    copy, rng = tmp_path / "copy", random.Random(0)
    words = ["pull", str(archive), str(copy), "--workers", str(_WORKERS)]
    process = subprocess.Popen([sys.executable, "-m", "pipelines.cli", *words], stderr=subprocess.DEVNULL)
    at = rng.randrange(20, _UNITS // 2)
    receipts = copy / "receipts"
    wait_until(
        lambda: receipts.is_dir() and len(list(receipts.iterdir())) >= at, lambda: process.poll() is None
    )
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (copy / "manifest.json").exists()
    before = inodes(copy)
    assert main(words) == 0
    assert labels_tree(copy) == labels_tree(archive)
    after = inodes(copy)
    twice = {name.split("/c/")[1] for name, inode in before.items() if after[name] != inode}
    assert len({unit.removesuffix("/0") for unit in twice}) <= _WORKERS


@pytest.mark.slow
def test_a_network_that_drops_delays_cuts_and_flips_changes_no_byte(
    s3_server: S3,
    labels: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    port = free_port()
    proxy = started("faulty_proxy.py", port, s3_server.port, 0.1, 1, 0, 0.1)
    try:
        for name, value in s3_server.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        fsspec.filesystem("s3").clear_instance_cache()
        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("faulty")
        for words in (
            ["push", labels, "s3://faulty/labels"],
            ["pull", "s3://faulty/labels", str(tmp_path / "copy")],
        ):
            for _ in range(10):
                if main(words) == 0:
                    break
        assert labels_tree(tmp_path / "copy") == labels_tree(labels)
        proxy.send_signal(signal.SIGTERM)
        assert proxy.stdout is not None
        assert re.search("flip|drop", proxy.stdout.read())
    finally:
        proxy.kill()
        proxy.wait()
        fsspec.filesystem("s3").clear_instance_cache()
    assert not [name for name in tree(tmp_path / "copy") if "partial" in name]
    capsys.readouterr()
