"""Grow a packed dataset: its full shards stay as they are, and shards of new images follow."""

from __future__ import annotations

from teacher_cache.dataset.index import Shard
from teacher_cache.dataset.shards import PackedDataset, check_shard, refuse_in_place
from teacher_cache.dataset.sources.source import Sample, Source, SourceOptions
from teacher_cache.dataset.sources.tars import tar_source
from teacher_cache.errors import DatasetError


class Growth:
    """Source of the samples that follow a dataset's full shards when it grows.

    These are the samples of the last shard, if that is not full, and those of another source whose keys the
    dataset does not have.

    Classes are matched by name; the dataset's order stays.

    Attributes:
        full_shards: Shards that stay.
        samples: Samples of the shards that follow; the first `num_packed` are the dataset's own.

    Raises:
        DatasetError: The classes are not the dataset's, or the source has no new sample.
    """

    def __init__(self, base: PackedDataset, source: Source) -> None:
        refuse_in_place(base.info, base.url)
        self.base, self.kind = base, source.kind
        self.left_out, self.notes = source.left_out, source.notes
        self.classes = base.info.classes
        new = _new_samples(base, source)
        size = base.info.samples_per_shard
        self.full_shards: list[Shard] = [shard for shard in base.info.shards if shard.num_samples == size]
        packed: list[Sample] = []
        for shard in base.info.shards[len(self.full_shards) :]:
            path = base.shard_path(shard)
            check_shard(path, shard, str(path))
            packed += tar_source([path], SourceOptions(classes=self.classes or None), is_packed=True).samples
        self.num_packed = len(packed)
        self.samples = [*packed, *new]

    def check_reencoding(self, max_side_px: int | None, quality: int | None) -> None:
        """Refuse to re-encode new images in another way than the dataset's. Raises DatasetError."""
        theirs = (self.base.info.source.get("max_side_px"), self.base.info.source.get("quality"))
        if (max_side_px, quality) != theirs:
            raise DatasetError(
                f"--max-side {max_side_px} --quality {quality}, but {self.base.url} was packed with "
                f"{theirs[0]} and {theirs[1]}",
                "The dataset would mix images of two encodings.",
                "give the dataset's values; omit a flag whose value there is None",
            )

    def check_shard_size(self, shard_size: int) -> None:
        """Refuse new shards of another size than the dataset's. Raises DatasetError."""
        if shard_size != self.base.info.samples_per_shard:
            raise DatasetError(
                f"--shard-size {shard_size}, but the shards of {self.base.url} hold "
                f"{self.base.info.samples_per_shard}",
                "All shards but the last must hold the same number of samples.",
                f"give --shard-size {self.base.info.samples_per_shard}",
            )


def _new_samples(base: PackedDataset, source: Source) -> list[Sample]:
    """Return the samples of a source that a dataset does not have, with the dataset's class ids."""
    position = {name: number for number, name in enumerate(base.info.classes)}
    unknown = [name for name in source.classes if name not in position]
    is_labelled = [bool(part.classes) for part in (source, base.info)]
    if unknown or is_labelled[0] != is_labelled[1]:
        raise DatasetError(
            f"the source has {len(source.classes):,} classes, {base.url} has {len(base.info.classes):,}; "
            f"not in the dataset: {', '.join(unknown[:3]) or 'none'}",
            "Class ids would mean other classes.",
            "give a source with the same classes, or pack a dataset of its own",
        )
    known = set(base.index.keys.to_pylist())
    new = [
        sample if sample.label is None else sample._replace(label=position[source.classes[sample.label]])
        for sample in source.samples
        if sample.key not in known
    ]
    if not new:
        raise DatasetError(f"every sample of the source is in {base.url} already", "There is nothing to add.")
    return new
