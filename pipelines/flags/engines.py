"""Engines by name, which are the choices of --engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

ENGINES: Mapping[str, str] = {
    "local": "pipelines.extraction.engines.local:LocalEngine",
    "ray": "pipelines.extraction.engines.ray.engine:RayEngine",
}
"""Entry points of engines: classes with a classmethod `of(make_worker, config)`, imported on demand."""

if TYPE_CHECKING:
    EngineName = str
else:
    EngineName = Literal[tuple(ENGINES)]
