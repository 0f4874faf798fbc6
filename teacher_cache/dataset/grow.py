"""Grow a packed dataset: its full shards stay as they are, and shards of new images follow."""

from __future__ import annotations

from teacher_cache.dataset.index import Shard
from teacher_cache.dataset.shards import PackedDataset
from teacher_cache.dataset.source import Members, Source
from teacher_cache.dataset.source_tars import TarSource
from teacher_cache.errors import DatasetError
from teacher_cache.exact.canonical import file_sha256


class Growth:
    """Source of the samples that follow a dataset's full shards when it grows.

    These are the samples of the last shard, if that is not full, and those of another source whose keys the
    dataset does not have.

    Attributes:
        full_shards: Shards that stay.

    Raises:
        DatasetError: The classes are not the dataset's, or the source has no new sample.
    """

    def __init__(self, base: PackedDataset, source: Source) -> None:
        if tuple(source.classes) != base.info.classes:
            raise DatasetError(
                f"the source has {len(source.classes):,} classes, {base.url} has {len(base.info.classes):,}, "
                "or the same number of others",
                "Class ids would mean other classes.",
                "give a source with the same classes, or pack a dataset of its own",
            )
        known = set(base.index.keys.to_pylist())
        self._new = [number for number, key in enumerate(source.keys) if key not in known]
        if not self._new:
            raise DatasetError(
                f"every sample of the source is in {base.url} already", "There is nothing to add."
            )
        size = base.info.samples_per_shard
        self.base, self._source = base, source
        self.full_shards: list[Shard] = [shard for shard in base.info.shards if shard.num_samples == size]
        rest = base.info.shards[len(self.full_shards) :]
        for shard in rest:
            if file_sha256(base.shard_path(shard)) != shard.sha256:
                raise DatasetError(
                    f"{base.shard_path(shard)} does not have the sha256 in dataset.json",
                    "Damaged images would be packed as good ones.",
                    "copy the shard again",
                )
        self._rest = [TarSource([base.shard_path(shard)]) for shard in rest]
        self._num_rest = sum(len(part.keys) for part in self._rest)
        self.kind = source.kind
        self.classes = list(source.classes)
        self.keys = [key for part in self._rest for key in part.keys]
        self.keys += [source.keys[number] for number in self._new]
        self.labels = [label for part in self._rest for label in part.labels]
        self.labels += [source.labels[number] for number in self._new]

    def location(self, number: int) -> str:
        """Return the origin of sample `number`, for messages."""
        part, position = self._part(number)
        return part.location(position)

    def read(self, number: int) -> Members:
        """Return the image and other members of sample `number`."""
        part, position = self._part(number)
        return part.read(position)

    def is_packed(self, number: int) -> bool:
        """Return whether sample `number` is one of the dataset's own."""
        return number < self._num_rest

    def check_reencoding(self, max_side_px: int | None, quality: int | None) -> None:
        """Refuse to re-encode new images in another way than the dataset's. Raises DatasetError."""
        theirs = (self.base.info.source.get("max_side_px"), self.base.info.source.get("quality"))
        if (max_side_px, quality) != theirs:
            raise DatasetError(
                f"--max-side {max_side_px} --quality {quality}, but {self.base.url} was packed with "
                f"{theirs[0]} and {theirs[1]}",
                "One dataset would hold images of two kinds.",
                "give the same, or leave them out where there were none",
            )

    def check_shard_size(self, shard_size: int) -> None:
        """Refuse new shards of another size than the dataset's. Raises DatasetError."""
        if shard_size != self.base.info.samples_per_shard:
            raise DatasetError(
                f"--shard-size {shard_size}, but the shards of {self.base.url} hold "
                f"{self.base.info.samples_per_shard}",
                "A row's shard must follow from its number.",
                f"give --shard-size {self.base.info.samples_per_shard}",
            )

    def _part(self, number: int) -> tuple[Source, int]:
        if number < self._num_rest:
            return self._rest[0], number
        return self._source, self._new[number - self._num_rest]
