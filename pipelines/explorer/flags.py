"""Flags of `view`."""

from __future__ import annotations

import dataclasses
from typing import Annotated

from msgspec import Meta
from tyro.conf import Positional

from teacher_cache.program.flags import CacheFlags


@dataclasses.dataclass(frozen=True)
class ViewConfig(CacheFlags):
    """Show an archive as local web pages: coverage, distributions, samples, views, confusions."""

    archive: Positional[str]
    """Archive to look at."""
    data: str | None = None
    """Packed dataset that was labelled, to show its images."""
    port: Annotated[int, Meta(ge=0, le=65535)] = 8501
    """Port on 127.0.0.1; 0 takes any that is free."""
    static: str | None = None
    """New folder to write the pages to, instead of serving them."""
    num_samples: Annotated[int, Meta(ge=1)] = 96
    """Samples of each order that --static writes."""
