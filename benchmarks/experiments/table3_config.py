"""Flags, data and sizes of the Table 3 experiment."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

RECIPE = str(Path(__file__).with_name("deit32.yaml"))


SIDE_PX = 32


LAST_UPDATES = 100
"""Last updates of a run, over which a student's agreement with the teacher is averaged."""


SOURCES = {
    "cifar10": ("uoft-cs/cifar10", "test"),
    "tiny-imagenet": ("zh-plus/tiny-imagenet", "val"),
}
"""Repository of each dataset on the Hugging Face hub, and the split to evaluate on."""


@dataclasses.dataclass(frozen=True)
class Table3Config:
    """Train DeiT's Table 3 in small, and write its tables and figures."""

    data: Literal["cifar10", "tiny-imagenet"]
    """Dataset of the experiment."""
    images: str | None = None
    """Folder of the dataset's train.parquet and test.parquet or val.parquet; images/DATA by default."""
    out: str | None = None
    """Folder for everything, table3/DATA-SETTING by default; finished steps in it are not repeated."""
    setting: Literal["cpu", "gpu"] = "cpu"
    """Size of the experiment: cpu takes two cores for an hour or two, gpu takes a GPU."""
    seeds: int = 3
    """Repeats of every arm."""
    device: str = "auto"
    """Device of the models; auto takes CUDA where there is one."""

    @property
    def folder(self) -> Path:
        """Folder for everything, from --out or the default."""
        return Path(self.out or f"table3/{self.data}-{self.setting}")
