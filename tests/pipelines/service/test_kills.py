"""Faults in small: no accepted request is lost or done twice, and archives are those of plain extracts."""

import pytest

from benchmarks.service_faults import ServiceFaultsConfig, run


@pytest.mark.kill
@pytest.mark.soak
def test_faults_of_processes_and_of_a_file_lose_nothing() -> None:
    assert run(ServiceFaultsConfig(faults=11, minute_s=8.0)) == 0


@pytest.mark.kill
@pytest.mark.soak
@pytest.mark.usefixtures("postgres")
def test_faults_of_processes_and_of_postgresql_lose_nothing() -> None:
    assert run(ServiceFaultsConfig(faults=12, minute_s=8.0, database="postgresql")) == 0


@pytest.mark.soak
@pytest.mark.usefixtures("postgres")
def test_two_servers_on_one_postgresql_do_each_request_once() -> None:
    assert run(ServiceFaultsConfig(faults=0, requests=8, database="postgresql")) == 0
