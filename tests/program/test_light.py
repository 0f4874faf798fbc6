"""Commands import what they use: none whose work needs no model imports torch or timm."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from serving import SmallService
from support import extract_flags, new_key

HEAVY = ("torch", "timm", "numba", "matplotlib")

RUN = """
import json, sys
from pipelines.cli import COMMANDS, main as teacher_cache
from student.cli import COMMANDS as STUDENT, main as student

def heavy():
    return [name for name in {heavy!r} if name in sys.modules]

found = {{}}
def run(program, words):
    try:
        code = program(words)
    except SystemExit as end:
        code = end.code
    found[" ".join(words[:2])] = [code, heavy()]

for program, commands in ((teacher_cache, COMMANDS), (student, STUDENT)):
    for words in (["--help"], *([name, "--help"] for name in commands)):
        run(program, words)
for name, words in json.loads(sys.argv[1]):
    run({{"teacher-cache": teacher_cache, "student": student}}[name], words)
import pipelines.jobs.ray_jobs  # submit, logs and stop
found["jobs"] = [0, heavy()]
run(teacher_cache, json.loads(sys.argv[2]))
print(json.dumps(found))
"""


@pytest.mark.slow
def test_no_command_without_a_model_imports_one(
    folders: Path, data: str, labels: str, tmp_path: Path
) -> None:
    """All of them run in one process, whose modules are read after each."""
    shelf, key, archive = tmp_path / "shelf", new_key(tmp_path), str(tmp_path / "shelf" / "labels")
    service = SmallService(tmp_path / "service", data)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text('{"model": "deit"}')
    lines = [{"step": step, "epoch": 0, "loss": 1.0, "lr": 0.1, "seconds": step} for step in range(3)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    commands: list[tuple[str, list[str]]] = [
        ("teacher-cache", words)
        for words in (
            ["status", labels],
            ["push", labels, archive],
            ["verify", archive, "--level", "quick"],
            ["verify", archive, "--level", "full"],
            ["pull", archive, str(tmp_path / "part"), "--views", "0:2"],
            ["card", archive, "--name", "Labels", "--license", "mit"],
            ["sign", archive, "--key", str(key), "--who", "us"],
            ["catalog", str(shelf)],
            ["merge", str(tmp_path / "merged"), archive, labels],
            ["view", archive, "--data", data, "--static", "occupied"],
            ["view", archive, "--static", str(tmp_path / "pages")],
            ["token", "--config", str(service.file), "--name", "me", "--team", "vision", "--scopes", "read"],
            ["request", "list"],
        )
    ]
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "file").write_text("")
    commands += [
        ("student", ["runs"]),
        ("student", ["report", str(run), "--out", str(tmp_path / "page.html")]),
    ]
    pack = ["pack", str(folders), str(tmp_path / "packed")]
    program = RUN.format(heavy=HEAVY)
    unreachable = {"TEACHER_CACHE_SERVICE": "http://127.0.0.1:9", "TEACHER_CACHE_TOKEN": "t"}
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(commands), json.dumps(pack)],
        env={**os.environ, **unreachable},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    packed = found.pop(" ".join(pack[:2]))
    assert packed == [0, ["numba"]]
    assert {name: heavy for name, (_, heavy) in found.items() if heavy} == {}
    refused = {" ".join(words[:2]) for _, words in commands[9:10]} | {"request list"}
    assert {name for name, (code, _) in found.items() if code} <= refused, done.stderr
    assert len(found) > 40


@pytest.mark.slow
def test_a_teacher_of_another_kind_than_timms_needs_no_timm(data: str, tmp_path: Path) -> None:
    """Neither the driver of an extract nor its worker, with weights from a file, and a rendering process."""
    program = (
        "import json, sys; from pipelines.cli import main; code = main(json.loads(sys.argv[1])); "
        "print(json.dumps([code, 'torch' in sys.modules, 'timm' in sys.modules]))"
    )
    words = extract_flags(data, tmp_path / "out", workers=1)
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(words)], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == [0, True, False]


@pytest.mark.slow
def test_an_idle_server_holds_no_model(data: str, tmp_path: Path) -> None:
    service = SmallService(tmp_path, data).start()
    try:
        assert service.process is not None
        maps = Path(f"/proc/{service.process.pid}/maps").read_text()
    finally:
        service.kill()
    assert not [name for name in ("libtorch", "llvmlite", "matplotlib") if name in maps]
