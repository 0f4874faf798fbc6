"""Label formats of TinyViT, FKD and ml-dr, reimplemented to write and read as the peers' own code does.

Each peer writes labels of all views of a few samples, and reads one view of one sample as the peer's own
reader does: the probabilities of k classes, with the rest spread evenly (TinyViT's and FKD's "marginal
smoothing", ml-dr's "smooth").
"""

from __future__ import annotations

import abc
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch


class Peer(abc.ABC):
    """A label format, in a folder of its own.

    Args:
        folder: Folder of the files.
        keys: Keys of the samples.
        k: Classes kept in a label.
    """

    name: str

    def __init__(self, folder: Path, keys: list[str], k: int) -> None:
        folder.mkdir(parents=True)
        self.folder, self.keys, self.k = folder, keys, k

    @abc.abstractmethod
    def write(self, class_ids_RVK: npt.NDArray[np.int64], shares_RVK: npt.NDArray[np.float32]) -> None:
        """Write all labels."""

    @abc.abstractmethod
    def read(self, row: int, view: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return class ids and probabilities (K,) of one label, read as the peer's training does."""

    def num_bytes(self) -> int:
        """Return the size of all files that must be kept."""
        return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())


class TinyViT(Peer):
    """A binary file of fixed records per epoch, and a text file of keys (Cream, TinyViT, manager.py).

    A record: the view's seed as int32, k class ids as int16, k probabilities as float16.
    """

    name = "TinyViT"

    def write(self, class_ids_RVK: npt.NDArray[np.int64], shares_RVK: npt.NDArray[np.float32]) -> None:
        """Write all labels."""
        seeds = np.random.default_rng(0).integers(0, 2**31, class_ids_RVK.shape[:2], dtype=np.int32)
        for view in range(class_ids_RVK.shape[1]):
            folder = self.folder / f"logits_top{self.k}_epoch{view}"
            folder.mkdir()
            (folder / "rank0-keys.txt").write_text("".join(f"{key}\n" for key in self.keys))
            records = [
                seeds[:, view, None].view(np.uint8),
                class_ids_RVK[:, view].astype(np.int16).view(np.uint8),
                shares_RVK[:, view].astype(np.float16).view(np.uint8),
            ]
            np.concatenate(records, axis=1).tofile(folder / "rank0-values.bin")
        self._open: dict[int, tuple[dict[str, int], Any]] = {}

    def read(self, row: int, view: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return class ids and probabilities (K,) of one label."""
        if view not in self._open:
            folder = self.folder / f"logits_top{self.k}_epoch{view}"
            keys = (folder / "rank0-keys.txt").read_text().splitlines()
            values = (folder / "rank0-values.bin").open("rb")
            self._open[view] = ({key: place for place, key in enumerate(keys)}, values)
        places, values = self._open[view]
        size = 4 + 4 * self.k
        values.seek(places[self.keys[row]] * size)
        record = values.read(size)
        middle = 4 + 2 * self.k
        return np.frombuffer(record[4:middle], np.int16), np.frombuffer(record[middle:], np.float16)


class FKD(Peer):
    """A torch file per image: crops, flips, and (crops, 2, k) of ids and probabilities (FKD).

    The labels are those of FKD's --use_fp16, the smaller of two kinds; ids are stored as floats.
    """

    name = "FKD"

    def write(self, class_ids_RVK: npt.NDArray[np.int64], shares_RVK: npt.NDArray[np.float32]) -> None:
        """Write all labels."""
        views = class_ids_RVK.shape[1]
        coordinates = torch.rand(len(self.keys), views, 4, generator=torch.Generator().manual_seed(0))
        for row in range(len(self.keys)):
            label = torch.from_numpy(np.stack([class_ids_RVK[row], shares_RVK[row]], axis=1)).half()
            flips = [bool(view % 2) for view in range(views)]
            torch.save([coordinates[row].clone(), flips, label], self.folder / f"{row}.tar")

    def read(self, row: int, view: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return class ids and probabilities (K,) of one label."""
        _, _, label = torch.load(self.folder / f"{row}.tar", weights_only=False)
        return label[view, 0].numpy(), label[view, 1].numpy()


class MlDr(Peer):
    """A torch file per image, a list of a dict per view with Python numbers; all in one tar.gz (ml-dr).

    The size is that of the tar.gz, which is shipped; reads are from the files, as in training.
    """

    name = "ml-dr"

    def write(self, class_ids_RVK: npt.NDArray[np.int64], shares_RVK: npt.NDArray[np.float32]) -> None:
        """Write all labels."""
        boxes = np.random.default_rng(0).integers(0, 400, (*class_ids_RVK.shape[:2], 4))
        for row in range(len(self.keys)):
            views = [
                {
                    "params": (tuple(boxes[row, view].tolist()), bool(view % 2)),
                    "prob": (shares_RVK[row, view].tolist(), class_ids_RVK[row, view].tolist()),
                }
                for view in range(class_ids_RVK.shape[1])
            ]
            torch.save(views, self.folder / f"{row}.pth.tar", pickle_protocol=4)
        with tarfile.open(self.folder / "labels.tar.gz", "w:gz") as tar:
            for file in sorted(self.folder.glob("*.pth.tar")):
                tar.add(file, file.name)

    def num_bytes(self) -> int:
        """Return the size of the tar.gz."""
        return (self.folder / "labels.tar.gz").stat().st_size

    def read(self, row: int, view: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return class ids and probabilities (K,) of one label."""
        shares, class_ids = torch.load(self.folder / f"{row}.pth.tar", weights_only=False)[view]["prob"]
        return np.array(class_ids), np.array(shares, np.float32)


PEERS: tuple[type[Peer], ...] = (TinyViT, FKD, MlDr)
