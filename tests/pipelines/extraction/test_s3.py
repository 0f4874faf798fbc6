"""The whole line on a real S3 server: through a faulty network, and with a wrong secret."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from support import S3, extract_flags, free_port, started, tree

from benchmarks.remote import upload
from teacher_cache.storage.store import Store

_STUDENT = ("embed_dim=48", "depth=1", "num_heads=3", "img_size=32")
_FAULT_SHARE = 0.1


def run(program: str, words: list[str], **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", f"{program}.cli", *words]
    return subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=300
    )


_EACH = """
import json, sys
from pipelines.cli import main as pipelines
from student.cli import main as student
for program, words in json.loads(sys.argv[1]):
    code = {"pipelines": pipelines, "student": student}[program](words)
    if code:
        sys.exit(code)
"""


def done(*commands: tuple[str, list[str]], **environment: str) -> str:
    """Run commands one after the other, in a process of that environment, and return what they print."""
    ended = subprocess.run(
        [sys.executable, "-c", _EACH, json.dumps(commands)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def objects(url: str) -> dict[str, bytes]:
    store = Store(url)
    return {name: store.get(name) for name in store.list()}


def whole_line(
    url: str, folders: Path, cache: Path, *, expected: dict[str, bytes], **environment: str
) -> None:
    """Pack, extract on two Ray actors, verify and train, with every path on s3://."""
    upload(folders, f"{url}/images")
    pack = ["pack", f"{url}/images", f"{url}/data", "--shard-size", "8"]
    flags = {"engine": "ray", "num_actors": 2, "cpus_per_actor": 0.5, "cache_dir": cache}
    words = extract_flags(f"{url}/data", f"{url}/labels", **flags)
    verify, status = ["verify", f"{url}/labels", "--level", "full"], ["status", f"{url}/labels"]
    training = ["--data", f"{url}/data", "--labels", f"{url}/labels", "--distillation", "soft"]
    training += ["--steps", "50", "--batch-size", "8", "--workers", "2", "--output", f"{url}/run"]
    training += ["--cache-dir", str(cache), "--model-kwargs", *_STUDENT]
    evaluation = ["--checkpoint", f"{url}/run/last.safetensors", "--data", f"{url}/data"]
    evaluation += ["--cache-dir", str(cache)]
    said = done(
        *(("pipelines", words) for words in (pack, words, verify, status)),
        *(("student", words) for words in (["train", *training], ["eval", *evaluation])),
        **environment,
    )
    assert objects(f"{url}/labels") == expected
    assert "no problems (full)" in said
    assert "finished" in said
    assert said.count("accuracy distillation") == 1
    lines = [json.loads(line) for line in Store(f"{url}/run").get("metrics.jsonl").splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == list(range(50))


@contextlib.contextmanager
def faulty_network(s3_server: S3) -> Iterator[dict[str, str]]:
    """Yield the environment of programs whose requests are dropped, delayed, truncated and refused."""
    port = free_port()
    proxy = started("faulty_proxy.py", port, s3_server.port, _FAULT_SHARE, 0)
    try:
        yield {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    finally:
        proxy.send_signal(signal.SIGTERM)
        did = json.loads(proxy.communicate(timeout=30)[0])
    assert min(did[fault] for fault in ("drop", "delay", "truncate", "answer 503")) >= 1
    assert 0.05 < 1 - did["pass on"] / sum(did.values()) < 0.2


@pytest.mark.slow
def test_an_extract_through_a_faulty_network_gives_the_same_archive(
    s3: str, s3_server: S3, data: str, tmp_path: Path
) -> None:
    upload(Path(data), f"{s3}/data")
    done(("pipelines", extract_flags(data, tmp_path / "labels", views="0:1")))
    words = extract_flags(f"{s3}/data", f"{s3}/labels", views="0:1", cache_dir=tmp_path / "cache")
    with faulty_network(s3_server) as through:
        done(("pipelines", words), ("pipelines", ["verify", f"{s3}/labels", "--level", "full"]), **through)
    assert objects(f"{s3}/labels") == tree(tmp_path / "labels")


@pytest.mark.ray
@pytest.mark.soak
def test_all_of_it_on_s3_through_a_faulty_network(
    s3: str, s3_server: S3, folders: Path, labels: str, tmp_path: Path
) -> None:
    with faulty_network(s3_server) as through:
        whole_line(s3, folders, tmp_path / "cache", expected=tree(labels), **through)
    runs = [name for name in Store(f"{s3}/labels.runs").list() if name.endswith("report.json")]
    assert json.loads(Store(f"{s3}/labels.runs").get(runs[0]))["state"] == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("command", ["pack", "extract", "verify"])
def test_a_wrong_secret_is_one_clear_line(command: str, s3: str, data: str, folders: Path) -> None:
    words = {
        "pack": ["pack", str(folders), f"{s3}/data"],
        "extract": extract_flags(data, f"{s3}/labels"),
        "verify": ["verify", f"{s3}/labels"],
    }[command]
    ended = run("pipelines", words, AWS_SECRET_ACCESS_KEY="wrong")
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"teacher-cache {command}: {s3.removeprefix('s3://')}")
    assert "access is denied" in line
    assert "AWS_SECRET_ACCESS_KEY" in line
    assert "wrong" not in line


@pytest.mark.slow
def test_a_store_that_does_not_answer_is_said(s3: str) -> None:
    ended = run("pipelines", ["verify", f"{s3}/labels"], AWS_ENDPOINT_URL=f"http://127.0.0.1:{free_port()}")
    assert ended.returncode == 1
    assert "cannot be reached" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_a_bucket_that_is_not_there_is_said(s3: str, folders: Path) -> None:
    ended = run("pipelines", ["pack", str(folders), f"{s3}-elsewhere/data"])
    assert ended.returncode == 2
    assert "make the bucket first" in ended.stderr
    assert not fsspec.filesystem("s3").exists(f"{s3}-elsewhere")
