"""Flags of the commands that share archives, a frozen dataclass per command."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from msgspec import Meta
from tyro.conf import Positional

from teacher_cache.program.flags import Check, Flags, JsonFlag, parse_shards, parse_views


@dataclasses.dataclass(frozen=True, kw_only=True)
class CopyFlags(JsonFlag, Flags):
    """Part of an archive to copy, and how."""

    views: Annotated[str | None, Check(parse_views)] = None
    """View indices A:B to copy, in whole blocks; all by default."""
    shards: Annotated[str | None, Check(parse_shards)] = None
    """Image shards A:B to copy; all by default."""
    classes: tuple[str, ...] = ()
    """Classes, by name or number; only the image shards with a sample of one of them are copied."""
    workers: Annotated[int, Meta(ge=1, le=256)] = 8
    """Units that are copied at once."""
    recheck: bool = False
    """Hash the objects that are there already, and copy those that differ again."""


@dataclasses.dataclass(frozen=True)
class PushConfig(CopyFlags):
    """Copy an archive, or a part of it, to where others can fetch it."""

    archive: Positional[str]
    """Archive to copy."""
    url: Positional[str]
    """New place, or one that has an earlier or smaller copy: s3://, gs://, az://, hf://, or a folder."""


@dataclasses.dataclass(frozen=True)
class PullConfig(CopyFlags):
    """Fetch an archive, or a part of it; the same command later fetches more."""

    url: Positional[str]
    """Archive to fetch: s3://, gs://, az://, hf://, https://, or a folder."""
    archive: Positional[str]
    """New folder, or one that has an earlier or smaller copy."""
