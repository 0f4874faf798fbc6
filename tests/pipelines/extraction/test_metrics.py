"""What a run on Ray exports, read from where Prometheus would."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import extract_flags

SCRIPT = r"""
import json, re, sys, time, urllib.request
import ray
from pipelines.cli import main
from pipelines.extraction.engines.ray import RayEngine


close, patience_s = RayEngine.close, 60.0

def read_then_close(engine):
    '''Look while the driver is there: its figures go with it.'''
    port = next(node["MetricsExportPort"] for node in ray.nodes() if node["Alive"])
    mine = f'WorkerId="{ray.get_runtime_context().get_worker_id()}"'
    found, end_s = {}, time.monotonic() + patience_s
    while found.get("ray_teacher_cache_views_total") != 99 and time.monotonic() < end_s:
        time.sleep(0.5)
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        for name, tags, value in re.findall(r"^(ray_teacher_cache_\w+)\{(.*?)\} (\S+)$", text, re.MULTILINE):
            which = re.search(r'(?:state|stage)="(\w+)"', tags)
            if mine in tags:
                found[f"{name} {which[1]}" if which else name] = float(value)
    print("found", json.dumps(found))
    close(engine)

RayEngine.close = read_then_close
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_runs_figures_reach_prometheus(data: str, ray_address: str, tmp_path: Path) -> None:
    flags = {"engine": "ray", "address": ray_address, "num_actors": 1, "cpus_per_actor": 0.5}
    command = [sys.executable, "-c", SCRIPT, *extract_flags(data, tmp_path / "out", **flags)]
    ended = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=True)
    (line,) = (line for line in ended.stdout.splitlines() if line.startswith("found "))
    found = json.loads(line.removeprefix("found "))
    assert found["ray_teacher_cache_views_total"] == 99
    assert found["ray_teacher_cache_units_total done"] == 10
    assert found["ray_teacher_cache_label_bytes_total"] > 0
    assert found["ray_teacher_cache_workers"] == 1
    for stage in ("render", "teacher", "write"):
        assert found[f"ray_teacher_cache_seconds_total {stage}"] > 0
