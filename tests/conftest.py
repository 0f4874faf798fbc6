"""Fixtures: a packed dataset, an archive of its labels, an S3 server, a Ray cluster."""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ["RAY_AUTH_MODE"] = "token"  # before anything imports ray
os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_prestart_worker_first_driver"] = "0"  # noqa: SIM112  # Ray's own spelling; saves idle processes
os.environ["PYTHONPATH"] = os.pathsep.join(  # where workers of Ray, too, find the tests' own teacher
    filter(None, [str(Path(__file__).parent / "teachers"), os.environ.get("PYTHONPATH")])
)
if "PYTEST_XDIST_WORKER" in os.environ:  # before anything imports torch: several processes share the cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from budget import BudgetReport
from hypothesis import settings
from postgres import postgres as postgres
from support import S3, SHARD_SIZE, extract_flags, write_class_folders
from xdist.scheduler import LoadFileScheduling

from pipelines.cli import main as teacher_cache_main
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.views.probe import probe_digest
from teacher_cache.views.recipe import deit

_OWN = tempfile.TemporaryDirectory()  # instead of the user's own pinned keys
os.environ |= {"XDG_CONFIG_HOME": f"{_OWN.name}/config", "XDG_STATE_HOME": f"{_OWN.name}/state"}
settings.register_profile("reproducible", deadline=None, derandomize=True)
settings.load_profile("reproducible")
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, os.cpu_count() or 1))


_MARKER_OF_FIXTURE = {"ray_address": "ray", "two_nodes": "ray", "head": "ray", "s3": "s3", "s3_server": "s3"}

_MARKER_OF_PARAMETER = {"ray": "ray", "s3": "s3", "postgresql": "slow"}
_PARAMETER = re.compile(rf"[\[-]({'|'.join(_MARKER_OF_PARAMETER)})(?=[]-])")
"""Names of tests with an engine, a store or a database as a parameter."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the services they use; tests on Ray take longest, so their files come first."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        for fixture in fixtures:
            if fixture in _MARKER_OF_FIXTURE:
                item.add_marker(_MARKER_OF_FIXTURE[fixture])
        for parameter in _PARAMETER.findall(item.name):
            item.add_marker(_MARKER_OF_PARAMETER[parameter])
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # in the process that all reports come to
        config.pluginmanager.register(BudgetReport())
        if config.getoption("numprocesses", None):
            probe_digest(deit(32))  # numba compiles once what each of several processes would compile


_ON_ONE_CLUSTER = ("test_engines.py", "test_metrics.py", "test_distributed.py")


class _Scopes(LoadFileScheduling):
    """Files of tests for pytest-xdist, a process each at a time; those on a Ray cluster share it."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "one cluster" if file.endswith(_ON_ONE_CLUSTER) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadFileScheduling:
    return _Scopes(config, log)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_class_folders(tmp_path_factory.mktemp("folders") / "images")


@pytest.fixture(scope="session")
def data(folders: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A packed dataset of 33 images in 5 shards, the last one not full."""
    target = str(tmp_path_factory.mktemp("data") / "packed")
    assert teacher_cache_main(["pack", str(folders), target, "--shard-size", str(SHARD_SIZE)]) == 0
    return target


@pytest.fixture(scope="session")
def dataset(data: str) -> PackedDataset:
    return PackedDataset(data)


@pytest.fixture(scope="session")
def labels(data: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An archive of 3 views of every image, 2 views a unit."""
    target = str(tmp_path_factory.mktemp("labels") / "archive")
    assert teacher_cache_main(extract_flags(data, target)) == 0
    return target


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    server = S3(tmp_path_factory.mktemp("s3"))
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()


@pytest.fixture
def s3(s3_server: S3, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a new bucket, which this process and those it starts can reach."""
    import fsspec

    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = f"bucket-{secrets.token_hex(4)}"
    fsspec.filesystem("s3", skip_instance_cache=True).mkdir(bucket)
    return f"s3://{bucket}"


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """A Ray cluster of one node with four slots, without a dashboard."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 4, "include_dashboard": False, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    yield cluster.address
    cluster.shutdown()
