"""What the Table 3 experiment takes: its flags, data and sizes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

RECIPE = str(Path(__file__).with_name("deit32.yaml"))


SIDE_PX = 32


LAST_UPDATES = 100
"""Over which a student's agreement with its teacher is told."""


SOURCES = {
    "cifar10": ("uoft-cs/cifar10", "test"),
    "tiny-imagenet": ("zh-plus/tiny-imagenet", "val"),
}
"""Where each dataset comes from on the Hugging Face hub, and the split that is evaluated on."""


@dataclasses.dataclass(frozen=True)
class Table3Config:
    """Train DeiT's Table 3 in small, and write its tables and figures."""

    data: Literal["cifar10", "tiny-imagenet"]
    """The dataset."""
    images: str | None = None
    """Folder of its train.parquet and test.parquet or val.parquet; images/DATA if not given."""
    out: str | None = None
    """Folder for everything, table3/DATA-SETTING if not given; what is done there is not done again."""
    setting: Literal["cpu", "gpu"] = "cpu"
    """How large it is: two cores for an hour or two, or a GPU."""
    seeds: int = 3
    """Repeats of every arm."""
    device: str = "auto"
    """auto is CUDA if there is one."""

    @property
    def folder(self) -> Path:
        """Where everything goes."""
        return Path(self.out or f"table3/{self.data}-{self.setting}")
