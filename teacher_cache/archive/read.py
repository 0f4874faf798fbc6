"""Reading an archive: the labels of one view of one shard at a time, every object hashed when first read."""

from __future__ import annotations

from teacher_cache.archive.layout import Unit
from teacher_cache.archive.manifest import (
    MANIFEST_FILE,
    SPEC_FILE,
    ArchiveSpec,
    Receipt,
    open_document,
)
from teacher_cache.canonical import sha256_hex
from teacher_cache.dataset.index import DatasetInfo
from teacher_cache.errors import ArchiveError, DamagedError
from teacher_cache.labels.codec import LabelArrays, decode
from teacher_cache.labels.topk import Labels
from teacher_cache.store import Store
from teacher_cache.views import recipe as recipes
from teacher_cache.views.probe import check_probe
from teacher_cache.views.recipe import Recipe


class ArchiveReader:
    """A finished archive. Cheap to pickle: a worker process opens its own.

    Args:
        url: Its folder, or any URL fsspec opens.

    Raises:
        ArchiveError: There is no finished archive, or its manifest is damaged or of an unknown version.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._store = Store(url)
        document = _read_manifest(self._store)
        self.spec = ArchiveSpec.from_dict(document["spec"])
        self.views: list[int] = document["views"]
        self.receipts = [Receipt.from_dict(unit) for unit in document["units"]]
        self._units = {(receipt.unit.shard, receipt.unit.block): receipt for receipt in self.receipts}
        self._layout = self.spec.layout
        self._hashed: set[str] = set()

    def __reduce__(self) -> tuple[type[ArchiveReader], tuple[str]]:
        return ArchiveReader, (self.url,)

    @property
    def recipe(self) -> Recipe:
        """The augmentation that was labelled."""
        return recipes.from_dict(self.spec.recipe)

    @property
    def num_bytes(self) -> int:
        """Bytes of all label objects."""
        return sum(receipt.num_bytes for receipt in self.receipts)

    def check_replay(self, dataset: DatasetInfo) -> None:
        """Refuse to pair these labels with images or views they were not made for.

        Raises:
            ArchiveError: Another class list or dataset.
            RecipeError: This machine's libraries render other pixels.
        """
        if dataset.classes_sha256 != self.spec.labels.classes_sha256:
            raise ArchiveError(
                f"archive {self.url} labels {self.spec.labels.num_classes} classes of another class list "
                f"than the dataset's {len(dataset.classes)}",
                "Its class ids would mean other classes.",
                "give --data the dataset that was labelled",
            )
        if dataset.sha256 != self.spec.dataset["sha256"]:
            raise ArchiveError(
                f"archive {self.url} labels dataset {self.spec.dataset['sha256'][:12]}, "
                f"not {dataset.sha256[:12]}",
                "Each image would get another image's label.",
                "give --data the dataset that was labelled, or extract labels for this one",
            )
        check_probe(self.recipe, self.spec.probe_sha256, self.spec.made_with)

    def labels(self, shard: int, view: int) -> Labels:
        """Return the labels of one view of all samples of a shard, in order.

        Raises:
            ArchiveError: The unit is not in the archive, or an object of it is missing or damaged; names it.
        """
        receipt = self._units.get((shard, view // self._layout.views_per_unit))
        if receipt is None or view not in receipt.unit.views:
            raise ArchiveError(
                f"archive {self.url} has no labels of view {view} of shard {shard}",
                f"It holds views {view_ranges(self.views)}.",
                "extract more views, or ask for fewer",
            )
        objects = self.objects(receipt)
        try:
            arrays = self._layout.decode_view(objects, receipt.unit, view)
        except (ValueError, RuntimeError) as error:
            raise self._damaged(receipt.unit, f"it cannot be decoded: {error}") from error
        rows = LabelArrays(*(values[: receipt.rows] for values in arrays))
        return decode(rows, self.spec.labels.num_classes)

    def objects(self, receipt: Receipt) -> dict[str, bytes]:
        """Return a unit's objects, each hashed the first time this reader sees it.

        Raises:
            ArchiveError: One is missing, or is not the one the manifest names.
        """
        objects = {}
        for array, (digest, _) in receipt.objects.items():
            name = self._layout.object_name(array, receipt.unit)
            try:
                data = objects[array] = self._store.get(name)
            except FileNotFoundError as error:
                raise self._damaged(receipt.unit, f"{name} is missing") from error
            if name not in self._hashed:
                if sha256_hex(data) != digest:
                    raise self._damaged(receipt.unit, f"{name} does not have the sha256 in the manifest")
                self._hashed.add(name)
        return objects

    def _damaged(self, unit: Unit, what: str) -> DamagedError:
        return DamagedError(
            f"unit {unit.name} of archive {self.url} is damaged: {what}",
            "Its labels cannot be trusted, and none are given.",
            f"delete receipts/{unit.name}.json and run the same extract again",
        )


def view_ranges(views: list[int]) -> str:
    """Say which views there are: "0:4, 8:12", or "none"."""
    starts = [view for view in views if view - 1 not in views]
    stops = [view + 1 for view in views if view + 1 not in views]
    return ", ".join(f"{start}:{stop}" for start, stop in zip(starts, stops, strict=True)) or "none"


def _read_manifest(store: Store) -> dict:
    try:
        return open_document(store.get(MANIFEST_FILE), store.path(MANIFEST_FILE))
    except (FileNotFoundError, NotADirectoryError) as error:
        if store.stat(SPEC_FILE) is not None:
            raise ArchiveError(
                f"archive {store.url} is not finished: it has no {MANIFEST_FILE}",
                "Some of its labels are missing.",
                "run the same extract again; it continues where it stopped",
            ) from error
        raise ArchiveError(
            f"{store.url} is no archive: it has no {MANIFEST_FILE}",
            "There are no labels to read.",
            "make one: teacher-cache extract",
        ) from error
