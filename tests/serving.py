"""A small service for tests, and its users."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from support import IMG_SIZE, TEACHER, K, teacher_checkpoint

from benchmarks.serving import Serving
from teacher_cache.sharing.client import Client

SCOPES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "reader": ("vision", ("read",)),
    "asker": ("vision", ("read", "request")),
    "other": ("speech", ("read", "request")),
    "approver": ("vision", ("read", "request", "approve")),
    "admin": ("vision", ("read", "request", "approve", "admin")),
}
ASK: dict[str, Any] = {"data": "small", "teacher": "regnety", "img_size": IMG_SIZE, "topk": K}


class SmallService(Serving):
    """Server of a small dataset and a small teacher, and the tokens of its users."""

    def __init__(self, folder: Path, packed: str, number: int = 0, /, **changes: Any) -> None:
        teacher = {"teacher": TEACHER, "checkpoint": teacher_checkpoint(), "device": "cpu", "batch_size": 16}
        config = {
            "database": f"sqlite:///{folder}/service.db",
            "data": {"small": packed},
            "archives": str(folder / "archives"),
            "teachers": {"regnety": teacher},
            "teams": {"vision": {}, "speech": {}},
            "views_per_unit": 2,
            "requests_per_s": 10_000.0,
            "burst": 10_000,
            "lease_s": 4.0,
        }
        super().__init__(folder, number, **{**config, **changes})
        self.tokens: dict[str, str] = {}

    def token(self, user: str) -> str:
        """Return a user's token, which is made when it is first asked for."""
        if user not in self.tokens:
            self.tokens[user] = self.new_token(user, *SCOPES[user])
        return self.tokens[user]

    def client(self, user: str) -> Client:
        return Client(self.url, self.token(user))

    def headers(self, user: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token(user)}"}

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Return the rows of a table of the database."""
        engine = sa.create_engine(self.config["database"])
        with engine.connect() as connection:
            found = [dict(row) for row in connection.execute(sa.text(f"SELECT * FROM {table}")).mappings()]
        engine.dispose()
        return found
