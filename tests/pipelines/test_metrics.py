"""What a run on Ray exports, read from where Prometheus would."""

import re
import time
import urllib.request
from pathlib import Path

import pytest
from conftest import extract_flags

from pipelines.cli import main

_PATIENCE_S = 60.0


def test_a_runs_figures_reach_prometheus(
    data: str, ray_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    from pipelines.engines.ray import RayEngine

    found: dict[str, float] = {}

    def read_then_close(engine: RayEngine) -> None:
        """Look while the driver is there: its figures go with it."""
        ports = [node["MetricsExportPort"] for node in ray.nodes() if node["Alive"]]
        end_s = time.monotonic() + _PATIENCE_S
        while not found and time.monotonic() < end_s:
            time.sleep(0.5)
            text = urllib.request.urlopen(f"http://127.0.0.1:{ports[0]}/metrics").read().decode()
            lines = re.findall(r"^(ray_teacher_cache_\w+)\{(.*?)\} (\S+)$", text, re.MULTILINE)
            if any(
                name == "ray_teacher_cache_views_total" and float(value) == 99 for name, _, value in lines
            ):
                for name, tags, value in lines:
                    which = re.search(r'(?:state|stage)="(\w+)"', tags)
                    found[f"{name} {which[1]}" if which else name] = float(value)
        close(engine)

    close = RayEngine.close
    monkeypatch.setattr(RayEngine, "close", read_then_close)
    flags = {"engine": "ray", "address": ray_address, "num_actors": 1, "cpus_per_actor": 0.5}
    assert main(extract_flags(data, tmp_path / "out", **flags)) == 0
    assert found["ray_teacher_cache_views_total"] == 99
    assert found["ray_teacher_cache_units_total done"] == 10
    assert found["ray_teacher_cache_label_bytes_total"] > 0
    assert found["ray_teacher_cache_workers"] == 1
    for stage in ("render", "teacher", "write"):
        assert found[f"ray_teacher_cache_seconds_total {stage}"] > 0
