"""Extracts as jobs of a Ray cluster with a token, its head started by docker/entrypoint.sh."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import ASK, SmallService
from support import PATIENCE_S, ended, extract_flags, free_port, labels_tree, tree, wait_until

from pipelines.cli import main

ROOT = Path(__file__).parents[2]
ENTRYPOINT = str(ROOT / "docker" / "entrypoint.sh")


def environment(**changes: str) -> dict[str, str]:
    bin_folder = str(Path(sys.executable).parent)
    return {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}", "HEAD_CPUS": "4", **changes}


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of clients of a head that is running."""
    port, dashboard = free_port(), free_port()
    log = tmp_path_factory.mktemp("head") / "log"
    own = tempfile.mkdtemp(prefix="ray-")  # or its jobs go to the cluster that began last on this machine
    flags = [f"--dashboard-agent-listen-port={free_port()}", f"--metrics-export-port={free_port()}"]
    variables = environment(RAY_PORT=str(port), DASHBOARD_PORT=str(dashboard))
    with log.open("w") as output:
        process = subprocess.Popen(
            [ENTRYPOINT, "head", *flags, f"--temp-dir={own}", "--object-store-memory=100000000"],
            env=variables,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    client = environment(RAY_API_SERVER_ADDRESS=f"http://127.0.0.1:{dashboard}")
    end_s = time.monotonic() + PATIENCE_S
    while cli(["status", "--job", "none"], client).stderr.count("does not exist") == 0:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end_s, cli(["status", "--job", "none"], client)
    yield client
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
    shutil.rmtree(own, ignore_errors=True)


def cli(words: list[str], variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return ended(main, words, variables)


def submit_flags(data: str, out: Path, **changes: object) -> list[str]:
    actors = {"num_actors": 2, "cpus_per_actor": 0.5, "drain_s": 20}
    return ["submit", *extract_flags(data, out, **{**actors, **changes})[1:]]


def submit(data: str, out: Path, variables: dict[str, str], **changes: object) -> dict:
    said = cli([*submit_flags(data, out, **changes), "--json"], variables)
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout)


@pytest.mark.slow
def test_a_plan_is_one_job_that_is_stopped_goes_on_and_gives_the_archive(
    head: dict[str, str], data: str, tmp_path: Path
) -> None:
    """Submitted twice, stopped, and submitted again, with a recipe of this machine that travels with it."""
    recipe, out = tmp_path / "mine.yaml", tmp_path / "out"
    recipe.write_text("version: 1\nimg_size: 32\nops:\n- op: random_resized_crop\n")
    flags = {"recipe": recipe, "img_size": None}
    first, second = submit(data, out, head, **flags), submit(data, out, head, **flags)
    assert (first["is_new"], second["is_new"]) == (True, False)
    assert first["job"] == second["job"]
    assert re.fullmatch(r"extract-[0-9a-f]{12}-1", first["job"])
    wait_until(lambda: list(out.glob("receipts/0*.json")))
    assert cli(["stop", first["job"]], head).returncode == 0
    again = submit(data, out, head, **flags)
    assert again["is_new"]
    assert again["job"] == first["job"][:-1] + "2"
    said = cli(["logs", again["job"], "--follow"], head)
    assert said.returncode == 0, said.stdout + said.stderr
    assert f"{out}: 99 labels" in said.stdout
    assert said.stderr.endswith("SUCCEEDED\n")
    assert main(extract_flags(data, tmp_path / "here", **flags)) == 0
    assert tree(out) == tree(tmp_path / "here")
    assert "SUCCEEDED" in cli(["status", "--job", again["job"]], head).stdout


@pytest.mark.slow
def test_without_the_token_it_is_refused(head: dict[str, str], data: str, tmp_path: Path) -> None:
    for changes in ({"RAY_AUTH_TOKEN": "0" * 64}, {"RAY_AUTH_MODE": "disabled"}):
        said = cli(submit_flags(data, tmp_path / "out"), {**head, **changes})
        assert said.returncode == 2
        assert "RAY_AUTH_TOKEN" in said.stderr
        assert "Traceback" not in said.stderr
    address = head["RAY_API_SERVER_ADDRESS"]
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{address}/api/jobs/")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_cluster_that_is_not_there_and_a_job_that_is_not_there_are_said(head: dict[str, str]) -> None:
    nowhere = cli(["logs", "extract-0", "--dashboard", f"http://127.0.0.1:{free_port()}"], head)
    unknown = cli(["stop", "extract-0"], head)
    for said in (nowhere, unknown):
        assert said.returncode == 2
        assert "Traceback" not in said.stderr
        assert "--dashboard http://127.0.0.1:" in said.stderr


def test_the_entrypoint_opens_no_cluster_without_a_token() -> None:
    def run(*words: str, **changes: str) -> subprocess.CompletedProcess:
        names = {name: value for name, value in environment().items() if not name.startswith("RAY_AUTH")}
        command = [ENTRYPOINT, *words]
        return subprocess.run(command, env={**names, **changes}, capture_output=True, text=True, check=False)

    for command in ("head", "worker", "submit"):
        said = run(command)
        assert (said.returncode, "no token" in said.stderr) == (2, True)
    assert run().returncode == 2
    assert "RAY_HEAD_ADDRESS" in run("worker", RAY_AUTH_TOKEN="0" * 64).stderr
    said = run("extract", "--help")
    assert (said.returncode, "--num-actors" in said.stdout) == (0, True)
    assert run("python", "-c", "print(7)").stdout == "7\n"


@pytest.mark.slow
def test_the_service_runs_its_jobs_on_the_cluster_and_finds_them_again(
    head: dict[str, str], data: str, tmp_path: Path
) -> None:
    """A server that is killed has begun a job; the next one does not begin it twice."""
    executor = {"kind": "ray", "dashboard": head["RAY_API_SERVER_ADDRESS"], "max_actors": 1}
    service = SmallService(tmp_path / "service", data, executor=executor, lease_s=2.0)
    client = service.client("asker")
    try:
        service.start()
        job = client.request(**ASK, views="0:4")
        wait_until(lambda: client.show(job["id"])["state"] not in ("planning", "queued"))
        assert client.show(job["id"])["state"] == "running", client.show(job["id"])["error"]
        service.kill()
        service.start()
        done = client.wait(job["id"])
        assert done["state"] == "done", done["error"]
        assert done["progress"]["units_done"] == done["progress"]["units"] == 10
        assert [row["times_done"] for row in service.rows("jobs")] == [1]
    finally:
        service.kill()
    plain = tmp_path / "plain"
    words = extract_flags(data, plain, views="0:4", batch_size=16, device="cpu")
    assert main(words) == 0
    assert labels_tree(service.folder / "archives" / done["archive"]) == labels_tree(plain)
