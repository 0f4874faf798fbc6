"""docker/: linted, and saying what the program and Ray say. The image itself cannot be built in the tests."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.extraction.engines.engine import UnitResult
from teacher_cache.program.commandline import parse

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    ended = subprocess.run([hadolint, DOCKER / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "")


def test_hadolint_would_find_something(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM ubuntu\nRUN cd /x && sudo true\n")
    hadolint = Path(sys.executable).with_name("hadolint")
    ended = subprocess.run([hadolint, tmp_path / "Dockerfile"], capture_output=True, text=True, check=False)
    assert ended.returncode == 1


def test_the_image_runs_as_nobody_in_particular() -> None:
    lines = (DOCKER / "Dockerfile").read_text().splitlines()
    users = [line.split()[1] for line in lines if line.startswith("USER")]
    assert users
    assert users[-1].isdigit()
    assert int(users[-1]) >= 10000
    assert "RAY_AUTH_MODE=token" in (DOCKER / "Dockerfile").read_text()


def test_every_dependency_of_the_image_is_pinned() -> None:
    pins = dict(
        line.split("==")
        for line in (DOCKER / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    )
    setup = (ROOT / "setup.cfg").read_text()
    needed = re.search(r"install_requires =\n(.*?)\n\n", setup, re.DOTALL)
    assert needed
    names = re.findall(r"^    ([A-Za-z0-9-]+)", needed[1], re.MULTILINE)
    assert set(names) | {"ray", "s3fs"} <= set(pins)
    assert (
        yaml.safe_load((DOCKER / "kuberay/rayjob.yaml").read_text())["spec"]["rayClusterSpec"]["rayVersion"]
        == pins["ray"]
    )


def test_compose_keeps_the_dashboard_on_this_machine_and_the_token_in_a_secret() -> None:
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    head, worker = compose["services"]["head"], compose["services"]["worker"]
    assert all(port.startswith("127.0.0.1:") for port in head["ports"])
    assert "ports" not in worker
    for service in (head, worker):
        assert service["secrets"] == ["token"]
        assert service["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/token"
        assert service["cap_drop"] == ["ALL"]
    assert worker["deploy"]["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"
    assert compose["secrets"]["token"]["file"] == "./token"
    for ignored in (
        "/docker/token",
        "/docker/store.env",
        "/docker/database-password",
        "/docker/service.yaml",
    ):
        assert ignored in (ROOT / ".gitignore").read_text().splitlines()


def test_compose_starts_the_service_where_it_is_asked_for_and_on_this_machine_alone() -> None:
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    server, database = compose["services"]["server"], compose["services"]["database"]
    assert server["command"] == ["serve"]
    assert server["profiles"] == database["profiles"] == ["service"]
    assert all(port.startswith("127.0.0.1:") for port in server["ports"])
    assert "ports" not in database
    assert server["cap_drop"] == ["ALL"]
    assert server["healthcheck"]["test"][-1].endswith("/ready")
    assert compose["secrets"]["database-password"]["file"] == "./database-password"


def test_serve_refuses_to_start_without_a_configuration() -> None:
    ended = subprocess.run([DOCKER / "entrypoint.sh", "serve"], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "SERVICE_CONFIG" in ended.stderr


def rayjob() -> dict:
    return yaml.safe_load((DOCKER / "kuberay" / "rayjob.yaml").read_text())


def test_the_rayjob_has_the_fields_that_kuberay_1_knows() -> None:
    """Held against KubeRay's own schema when it was written; here, against the list of what it uses."""
    spec = rayjob()["spec"]
    assert set(spec) == {
        *("entrypoint", "submissionMode", "backoffLimit", "activeDeadlineSeconds"),
        *("shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec"),
    }
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["minReplicas"] == 0 < workers["maxReplicas"]
    for group in (cluster["headGroupSpec"], workers):
        (container,) = group["template"]["spec"]["containers"]
        assert container["image"] == "teacher-cache:0.1.0"
        assert group["template"]["spec"]["securityContext"]["runAsNonRoot"] is True


@pytest.mark.parametrize("source", ["rayjob", "slurm"])
def test_the_commands_in_the_manifests_are_those_of_the_program(source: str) -> None:
    from pipelines.cli import COMMANDS

    if source == "rayjob":
        words = rayjob()["spec"]["entrypoint"].split()
    else:
        text = re.sub(r"\\\n#?", " ", (DOCKER / "slurm" / "extract.sbatch").read_text())
        command = re.search(r"^teacher-cache .*?(?= &$)", text, re.MULTILINE)
        asked = re.search(r"^#.*extract.sbatch (--data.*)$", text, re.MULTILINE)
        assert command
        assert asked
        line = command[0].replace('"$@"', asked[1])
        words = line.replace('"$head:$port"', "h:1").replace('"$SLURM_NNODES"', "8").split()
    assert words[:2] == ["teacher-cache", "extract"]
    config = parse(COMMANDS["extract"].config, words[2:], "teacher-cache extract")
    assert (config.engine, config.num_actors, config.gpus_per_actor) == ("ray", 8, 1.0)


@pytest.mark.parametrize("script", ["entrypoint.sh", "slurm/extract.sbatch"])
def test_shell_scripts_are_well_formed(script: str) -> None:
    bash = shutil.which("bash")
    assert bash
    subprocess.run([bash, "-n", DOCKER / script], check=True)


def test_the_dashboard_draws_metrics_that_there_are() -> None:
    """tests/pipelines/extraction/test_metrics.py reads them from a running Ray."""
    metrics = (ROOT / "pipelines" / "extraction" / "engines" / "ray_actors" / "fleet.py").read_text()
    known = set(re.findall(r'"(teacher_cache_[a-z_]+)"', metrics))
    page = json.loads((DOCKER / "grafana" / "teacher-cache.json").read_text())
    drawn = set()
    for panel in page["panels"]:
        for target in panel["targets"]:
            drawn |= set(re.findall(r"ray_(teacher_cache_[a-z_]+?)(?:_total)?(?=[\[{)])", target["expr"]))
    assert drawn == known
    assert {field for field in UnitResult.__dataclass_fields__ if field.endswith("_s")} == {
        *("render_s", "teacher_s", "write_s")
    }


def test_the_proxy_writes_no_token_to_a_disk() -> None:
    """A cache's files hold their keys in clear text, and here the keys are tokens."""
    text = (DOCKER / "nginx.conf").read_text()
    keys = re.findall(r"proxy_cache_key (\S+);", text)
    assert keys == ["$http_authorization$http_cookie"]
    (path,) = re.findall(r"proxy_cache_path (\S+) .*use_temp_path=off;", text)
    assert path.startswith("/dev/shm/")
