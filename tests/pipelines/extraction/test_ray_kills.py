"""Real processes of a real Ray cluster, killed: every run ends with the archive of an undisturbed one."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import PATIENCE_S, extract_flags, tree, wait_until

from pipelines.cli import main

pytestmark = [pytest.mark.ray, pytest.mark.kill, pytest.mark.slow]

_SLOW = {
    **{"teacher": "python:own_teacher:build", "checkpoint": None},
    **{"views": "0:4", "views_per_unit": 1, "batch_size": 8},
}
"""Twenty units of eight views, each half a second: there is time to kill somebody."""


def slow_flags(data: str, out: Path, **changes: object) -> list[str]:
    return [
        *extract_flags(data, out, **{**_SLOW, **changes}),
        "--model-kwargs",
        "pause_s=0.5",
        "--allow-disagreement",
    ]


@pytest.fixture(scope="module")
def undisturbed(data: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("slow") / "whole"
    assert main(slow_flags(data, out)) == 0
    return tree(out)


class Run:
    """A driver in a process of its own, and what its events say."""

    def __init__(self, data: str, out: Path, address: str | None, name: str = "run", **flags: object) -> None:
        self._folder = out.parent / name
        flags = {"num_actors": 2, "cpus_per_actor": 1, "run_dir": self._folder, "address": address, **flags}
        words = slow_flags(data, out, engine="ray", **flags)
        command = [sys.executable, "-m", "pipelines.cli", *words]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    def events(self, kind: str = "") -> list[dict]:
        file = self._folder / "events.jsonl"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event for event in found if kind in ("", event["event"])]

    def wait_for(self, is_met: Callable[[], object]) -> None:
        def is_running() -> bool:
            assert self.process.poll() is None, self.process.communicate()[0]
            return True

        wait_until(is_met, is_running)

    def wait_for_units(self, count: int) -> None:
        self.wait_for(lambda: len(self.events("unit_done")) >= count)

    def pids(self) -> list[int]:
        return [event["pid"] for event in self.events("worker_started")]

    def end(self) -> int:
        try:
            self.output = self.process.communicate(timeout=PATIENCE_S)[0]
        except subprocess.TimeoutExpired:
            self.process.kill()
            pytest.fail(self.process.communicate()[0])
        return self.process.returncode


def test_all_actors_killed_at_once_then_one_that_hangs_in_one_run(
    data: str, undisturbed: dict, ray_address: str, tmp_path: Path
) -> None:
    """Each of these has a test of its own among the campaigns; here they befall one run."""
    run = Run(data, tmp_path / "out", ray_address, unit_timeout_s=12)
    run.wait_for(lambda: len(run.pids()) >= 2)
    run.wait_for_units(1)
    started = len(run.pids())
    for pid in run.pids()[-2:]:  # on a busy machine others may have been given up before
        os.kill(pid, signal.SIGKILL)
    run.wait_for(lambda: len(run.pids()) >= started + 2)
    hung = run.pids()[-1]
    os.kill(hung, signal.SIGSTOP)
    assert run.end() == 0, run.output
    assert tree(tmp_path / "out") == undisturbed
    assert len(run.events("worker_lost")) >= 3
    assert any("nothing was labelled in 12 s" in failure["reason"] for failure in run.events("unit_failed"))
    assert not Path(f"/proc/{hung}/stat").exists()


def test_drivers_killed_and_two_at_once(
    data: str, undisturbed: dict, ray_address: str, tmp_path: Path
) -> None:
    first = Run(data, tmp_path / "out", ray_address)
    first.wait_for_units(3)
    first.process.kill()
    first.process.wait()
    runs = [Run(data, tmp_path / "out", ray_address, name, num_actors=1) for name in ("second", "third")]
    for run in runs:
        assert run.end() == 0, run.output
    assert tree(tmp_path / "out") == undisturbed
    assert runs[0].events("run_started")[0]["units_done"] >= 3


@pytest.mark.soak
def test_an_actor_killed_in_the_middle_of_a_unit(
    data: str, undisturbed: dict, ray_address: str, tmp_path: Path
) -> None:
    run = Run(data, tmp_path / "out", ray_address)
    run.wait_for(lambda: len(run.pids()) == 2)
    run.wait_for_units(2)
    killed, other = run.pids()
    os.kill(other, signal.SIGSTOP)  # or it may finish the archive before the replacement starts
    os.kill(killed, signal.SIGKILL)
    run.wait_for(lambda: len(run.pids()) == 3)
    os.kill(other, signal.SIGCONT)
    assert run.end() == 0, run.output
    assert tree(tmp_path / "out") == undisturbed
    assert [event["is_replaced"] for event in run.events("worker_lost")] == [True]
    assert [event["will_retry"] for event in run.events("unit_failed")] == [True]
    assert len(run.events("worker_started")) == 3


@pytest.mark.soak
def test_all_actors_killed_at_once(data: str, undisturbed: dict, ray_address: str, tmp_path: Path) -> None:
    run = Run(data, tmp_path / "out", ray_address)
    run.wait_for(lambda: len(run.pids()) == 2)
    run.wait_for_units(1)
    for pid in run.pids():
        os.kill(pid, signal.SIGKILL)
    assert run.end() == 0, run.output
    assert tree(tmp_path / "out") == undisturbed
    assert len(run.events("worker_lost")) == 2


@pytest.mark.soak
def test_the_driver_killed_then_a_second_one(
    data: str, undisturbed: dict, ray_address: str, tmp_path: Path
) -> None:
    first = Run(data, tmp_path / "out", ray_address)
    first.wait_for_units(3)
    first.process.kill()
    first.process.wait()
    second = Run(data, tmp_path / "out", ray_address, "second")
    assert second.end() == 0, second.output
    assert tree(tmp_path / "out") == undisturbed
    assert second.events("run_started")[0]["units_done"] >= 3


@pytest.mark.soak
def test_two_drivers_at_once(data: str, undisturbed: dict, ray_address: str, tmp_path: Path) -> None:
    runs = [Run(data, tmp_path / "out", ray_address, name, num_actors=1) for name in ("first", "second")]
    for run in runs:
        assert run.end() == 0, run.output
    assert tree(tmp_path / "out") == undisturbed


@pytest.mark.soak
def test_a_hung_teacher_is_replaced(data: str, undisturbed: dict, ray_address: str, tmp_path: Path) -> None:
    run = Run(data, tmp_path / "out", ray_address, unit_timeout_s=15)
    run.wait_for_units(2)
    hung = run.pids()[0]
    os.kill(hung, signal.SIGSTOP)
    assert run.end() == 0, run.output
    assert tree(tmp_path / "out") == undisturbed
    failures = run.events("unit_failed")  # on a slow machine another unit may take too long, too
    assert failures
    assert all("nothing was labelled in 15 s" in failure["reason"] for failure in failures)
    assert not Path(f"/proc/{hung}/stat").exists()


def test_sigterm_lets_units_finish_and_another_run_goes_on(
    data: str, undisturbed: dict, ray_address: str, tmp_path: Path
) -> None:
    run = Run(data, tmp_path / "out", ray_address)
    run.wait_for_units(2)
    run.process.send_signal(signal.SIGTERM)
    assert run.end() == 130, run.output
    assert "stopped before it was done" in run.output
    assert run.events()[-1]["event"] == "run_stopped"
    assert not run.events("unit_failed")
    done = run.events("unit_done")
    assert len(list((tmp_path / "out/receipts").glob("0*.json"))) == len(done) < 20
    assert main(slow_flags(data, tmp_path / "out")) == 0  # whichever engine: it goes on
    assert tree(tmp_path / "out") == undisturbed


@pytest.fixture
def two_nodes() -> Iterator[tuple[str, str, int]]:
    """A cluster of two nodes with room for an actor each; the second one's id, and its raylet's pid."""
    from ray.cluster_utils import Cluster

    small = {"include_dashboard": False, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **small})
    second = cluster.add_node(num_cpus=1, object_store_memory=100_000_000)

    yield cluster.address, second.node_id, second.all_processes["raylet"][0].process.pid
    cluster.shutdown()


@pytest.mark.parametrize("what", [pytest.param("raylet", marks=pytest.mark.soak), "whole node"])
def test_a_raylet_killed_alone_and_with_all_of_its_node(
    what: str, data: str, undisturbed: dict, two_nodes: tuple[str, str, int], tmp_path: Path
) -> None:
    address, node, raylet = two_nodes
    run = Run(data, tmp_path / "out", address)
    run.wait_for(lambda: len({event["node"] for event in run.events("worker_started")}) == 2)
    run.wait_for_units(2)
    children = Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()
    for pid in (raylet, *(map(int, children) if what == "whole node" else ())):
        os.kill(pid, signal.SIGKILL)
    assert run.end() == 0, run.output
    assert tree(tmp_path / "out") == undisturbed
    on_node = {event["worker"] for event in run.events("worker_started") if event["node"] == node}
    lost = [event["worker"] for event in run.events("worker_lost")]
    assert set(lost) <= on_node
    if what == "whole node":  # an actor outlives its raylet by some time
        assert lost  # more than once if Ray puts the replacement on the node before it counts as lost


@pytest.mark.soak
def test_a_ray_is_started_where_no_address_is_given_and_control_c_stops_all_of_it(
    data: str, undisturbed: dict, tmp_path: Path
) -> None:
    run = Run(data, tmp_path / "out", None)
    run.wait_for_units(1)
    os.killpg(run.process.pid, signal.SIGINT)  # as a terminal does
    assert run.end() == 130, run.output
    assert main(slow_flags(data, tmp_path / "out")) == 0
    assert tree(tmp_path / "out") == undisturbed
