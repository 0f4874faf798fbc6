"""Flags of the commands that share archives, a frozen dataclass per command."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from msgspec import Meta
from tyro.conf import Positional

from teacher_cache.program.flags import (
    CacheFlags,
    Check,
    Flags,
    JsonFlag,
    KeyFlags,
    parse_shards,
    parse_views,
)


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
    """Destination, empty or with an earlier or smaller copy: s3://, gs://, az://, hf://, or a folder."""


@dataclasses.dataclass(frozen=True)
class PullConfig(KeyFlags, CopyFlags):
    """Fetch an archive, or a part of it; the same command later fetches more."""

    url: Positional[str]
    """Archive to fetch: s3://, gs://, az://, hf://, https://, or a folder."""
    archive: Positional[str]
    """New folder, or one that has an earlier or smaller copy."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LicenseFlags(Flags):
    """Licences of what the labels were made from."""

    image_license: str = ""
    """Licence of the images, such as cc-by-4.0."""
    teacher_license: str = ""
    """Licence of the teacher's weights."""


@dataclasses.dataclass(frozen=True)
class SignConfig(LicenseFlags, JsonFlag):
    """Sign an archive with an ed25519 key, and write its SHA256SUMS."""

    archive: Positional[str]
    """Archive to sign."""
    key: str
    """File of the private key: ssh-keygen -t ed25519 -N '' -f FILE makes one."""
    who: str
    """Person or team that signs."""
    device: str | None = None
    """Devices that computed the labels; by default what the records of the runs say."""
    gpu_hours: Annotated[float | None, Meta(ge=0)] = None
    """GPU hours of all runs together; by default their sum in the records of the runs."""


@dataclasses.dataclass(frozen=True)
class CardConfig(LicenseFlags, CacheFlags, JsonFlag):
    """Write a card beside an archive: README.md, croissant.json, figures, pictures, SHA256SUMS."""

    archive: Positional[str]
    """Archive to describe."""
    name: str
    """Name of the archive."""
    license: str = "other"
    """Licence of the labels, as Hugging Face names licences."""
    url: str | None = None
    """Place that others fetch the archive from; ARCHIVE by default."""
    data: str | None = None
    """Packed dataset that was labelled; needed where the figures are not measured yet."""


@dataclasses.dataclass(frozen=True)
class CatalogConfig(JsonFlag):
    """Write catalog.json and a page of all archives in a folder or bucket, to search and compare them."""

    root: Positional[str]
    """Folder or bucket of archives."""
