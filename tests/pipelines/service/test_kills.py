"""Kills in small: no accepted request is lost or done twice, and archives are those of plain extracts."""

import pytest
from postgres import database_url

from benchmarks.service_kills import KillsConfig, run


@pytest.mark.kill
@pytest.mark.soak
def test_a_server_a_driver_and_an_executor_are_killed_and_nothing_is_lost() -> None:
    assert run(KillsConfig(kills=3, requests=3)) == 0


@pytest.mark.soak
def test_two_servers_on_one_postgresql_do_each_request_once(postgres: str) -> None:
    assert run(KillsConfig(kills=0, servers=2, requests=4, database=database_url(postgres))) == 0
