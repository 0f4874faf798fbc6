"""Make a token from the command line: the first one of a service cannot be made over its API."""

from __future__ import annotations

import time

from pipelines.flags.service import TokenConfig
from pipelines.service.config import ServiceConfig
from pipelines.service.ledger import Ledger, Who
from pipelines.service.tables import open_database
from pipelines.service.tokens import Tokens
from teacher_cache.errors import InputError


def make_token(service: ServiceConfig, asked: TokenConfig) -> tuple[str, str]:
    """Make a token, and return its id and the token.

    Raises:
        InputError: The team is not in the configuration.
    """
    if asked.team not in service.teams:
        raise InputError(
            f"--team {asked.team} is not in the configuration",
            "Its hours could not be shared out.",
            f"choose one of {', '.join(service.teams)}, or add it under teams",
        )
    engine = open_database(service.database, service.database_password_file)
    made = Tokens(engine, time.time).make(
        asked.name[:64],
        asked.team,
        asked.scopes,
        days=asked.days,
        max_requests=asked.max_requests,
        max_gpu_hours=asked.max_gpu_hours,
    )
    Ledger(engine, time.time).note(Who(None, "command line", asked.team), "make token", made[0], asked.name)
    return made
