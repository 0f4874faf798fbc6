"""Pack a source into a dataset: the same source and options give the same bytes, also after a kill."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

import pyarrow as pa

from teacher_cache.dataset.index import (
    DATASET_FILE,
    INDEX_FILE,
    INDEX_SCHEMA,
    DatasetInfo,
    index_bytes,
)
from teacher_cache.dataset.packing.grow import Growth
from teacher_cache.dataset.packing.journal import Done, Journal
from teacher_cache.dataset.packing.prepare import Prepared, Reencode, Work, prepare_all
from teacher_cache.dataset.packing.shard_draft import ShardDraft, shard_name
from teacher_cache.dataset.packing.shard_tar import index_tar
from teacher_cache.dataset.shards import check_shard
from teacher_cache.dataset.sources.source import LeftOut, Sample, Source
from teacher_cache.errors import DatasetError, ImageError, InputError
from teacher_cache.exact.canonical import canonical_json, sha256_hex
from teacher_cache.exact.streams import Purpose, RandomStream, permutation
from teacher_cache.program.progress import Advance, Track
from teacher_cache.storage.store import Store


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackOptions:
    """How a source is packed.

    Attributes:
        shard_size: Samples in every shard but the last.
        seed: Seed of the shuffle.
        shuffle: Shuffle the samples; without it they keep the source's order.
        reencode: Re-encoding to smaller images; None keeps the images' bytes.
        skip_corrupt: Leave out and record images that cannot be decoded, instead of refusing them.
        crops: Rewrite baseline JPEGs, losslessly, so that crops can be cut out of them.
        workers: Threads that read and decode.
    """

    shard_size: int = 5000
    seed: int = 0
    shuffle: bool = True
    reencode: Reencode | None = None
    skip_corrupt: bool = False
    crops: bool = False
    workers: int = 1

    @property
    def identity(self) -> list[Any]:
        """Options that must be unchanged for an unfinished pack to resume."""
        return [self.shard_size, self.seed, self.shuffle, self.reencode, self.skip_corrupt, self.crops]


def pack(source: Source | Growth, destination: Store, options: PackOptions, track: Track) -> DatasetInfo:
    """Pack a source into WebDataset tars with an index, decoding every image once to check it.

    A pack that was killed resumes after its last complete shard when it is called again.

    Args:
        source: Source of the samples; a Growth begins with the full shards of another dataset.
        destination: Folder of the dataset: empty, new, or with an unfinished pack of the same request.

    Raises:
        DatasetError: Keys are duplicate, a class is empty, or the destination holds something else.
        ImageError: An image cannot be decoded; the message names it.
    """
    check_keys(source.samples)
    reencode, samples = options.reencode, source.samples
    if isinstance(source, Growth):
        source.check_reencoding(*(reencode or (None, None)))
        source.check_shard_size(options.shard_size)
    if options.shuffle:
        order = permutation(len(samples), RandomStream((options.seed, 0), Purpose.PACK))
        samples = [samples[number] for number in order.tolist()]
    journal = Journal(destination, _plan_sha256(source, options.identity))
    with track("pack", len(samples), "images") as advance, removed_on_refusal(destination, journal):
        done = journal.done()
        if isinstance(source, Growth) and len(done) < len(source.full_shards):
            done = _copy_shards(source, destination, journal)
        position = done[-1].position if done else 0
        advance(position)
        packed = source.num_packed if isinstance(source, Growth) else 0
        kept = {sample.key for sample in source.samples[:packed]}
        work = (
            Work(each, None if each.key in kept else reencode, options.crops) for each in samples[position:]
        )
        with contextlib.closing(prepare_all(work, options.workers)) as prepared:
            counted = Counted(prepared, done, options.skip_corrupt, advance)
            size = options.shard_size
            done += _write_shards(counted, destination, journal, size, len(done), _identities(source))
        labels = {sample.label for sample in source.samples}
        settings = _settings(source, options, done)
        info, index = described(source.kind, source.classes, labels, source.left_out, done, settings)
    destination.put(INDEX_FILE, index)
    destination.put(DATASET_FILE, info.to_bytes())
    journal.clear()
    return info


def _settings(source: Source | Growth, options: PackOptions, done: Sequence[Done]) -> dict[str, Any]:
    """Return what dataset.json says of the packing."""
    settings: dict[str, Any] = {"seed": options.seed, **({} if options.shuffle else {"shuffled": False})}
    if isinstance(source, Source):
        if source.packed is not None and not options.shuffle:
            settings = {**source.packed.source, "skipped": done[-1].skipped if done else []}
        if options.crops:
            settings["cuttable"] = done[-1].cuttable if done else 0
    if options.reencode:
        settings |= {"max_side_px": options.reencode.max_side_px, "quality": options.reencode.quality}
    return settings


class Counted:
    """Iterable of the usable samples among prepared ones; it counts samples read and lists those skipped.

    Args:
        done: Shards that are finished, whose counts are continued.
        skip_corrupt: Skip samples that cannot be used, instead of raising ImageError.

    Attributes:
        position: Number of samples read so far, over all runs.
        skipped: Samples skipped so far, as key and reason.
        cuttable: Number of good images so far of which crops can be cut out.
        unused: Parts of good images so far that are not in their pixels.
    """

    def __init__(
        self, prepared: Iterable[Prepared], done: Sequence[Done], skip_corrupt: bool, advance: Advance
    ) -> None:
        self.position = done[-1].position if done else 0
        self.skipped: list[dict[str, str]] = list(done[-1].skipped) if done else []
        self.cuttable = done[-1].cuttable if done else 0
        self.unused = LeftOut.from_json(done[-1].unused if done else [])
        self._num_bytes = sum(each.shard.num_bytes for each in done)
        self._samples = self._good(prepared, skip_corrupt, advance)

    def __iter__(self) -> Iterator[Prepared]:
        return self._samples

    def _good(self, prepared: Iterable[Prepared], skip: bool, advance: Advance) -> Iterator[Prepared]:
        for sample in prepared:
            self.position += 1
            self._num_bytes += len(sample.data)
            advance(1, f"{self._num_bytes / 1e6:,.0f} MB")
            if sample.error is None:
                self.cuttable += sample.is_cuttable
                for part in sample.unused:
                    self.unused.add(sample.sample.key, part)
                yield sample
            elif skip:
                reason = f"{sample.error.value}. {sample.error.consequence}"
                self.skipped.append({"key": sample.sample.key, "reason": reason})
            else:
                raise ImageError(
                    sample.error.value,
                    f"{sample.error.consequence} Nothing was packed.",
                    f"{sample.error.remedy}; --skip-corrupt leaves such images out",
                )


def _write_shards(
    samples: Counted,
    destination: Store,
    journal: Journal,
    shard_size: int,
    number: int,
    identities: Mapping[str, str],
) -> list[Done]:
    """Write tars of `shard_size` samples; record each finished one in the journal, and return them."""
    done: list[Done] = []
    good = iter(samples)
    while (first := next(good, None)) is not None:
        place = number + len(done)
        with destination.put_file(shard_name(place)) as path, path.open("wb") as file:
            draft = ShardDraft(place, INDEX_SCHEMA, file, identities)
            sample: Prepared | None = first
            while sample is not None:
                draft.add(sample)
                sample = next(good, None) if len(draft) < shard_size else None
            shard, index = draft.finish()
        skipped = list(samples.skipped)
        unused = samples.unused.to_json()
        done.append(Done(shard, samples.position, skipped, index, cuttable=samples.cuttable, unused=unused))
        journal.add(done[-1], place)
    return done


def described(
    kind: str,
    classes: Sequence[str],
    labels: Set[int | None],
    left_out: LeftOut,
    done: Sequence[Done],
    options: Mapping[str, Any],
) -> tuple[DatasetInfo, bytes]:
    """Return dataset.json's content and the index's bytes.

    Args:
        labels: Distinct class ids of the source's samples, and None if a sample has no label.
        left_out: Files and members other than samples.

    Raises:
        DatasetError: No image was good, or none of a class that the source has.
    """
    if not done:
        raise DatasetError("no image of the source can be decoded", "The dataset would be empty.")
    table = pa.concat_tables([each.index for each in done])
    emptied = {label for label in labels if label is not None} - set(table["label"].to_pylist())
    if emptied:
        names = [classes[number] for number in sorted(emptied)]
        raise DatasetError(
            f"no image of class {', '.join(names[:5])} can be decoded",
            "The class would be empty.",
            "repair its images, or remove the class from the source",
        )
    index = index_bytes(table)
    about: dict[str, Any] = {
        "kind": kind,
        "max_side_px": None,
        "quality": None,
        "skipped": done[-1].skipped,
        **options,
    }
    left_out = LeftOut.joined([left_out, LeftOut.from_json(done[-1].unused)])
    if left_out:
        about.setdefault("left_out", left_out.to_json())  # a packed dataset has told already
    shards = tuple(each.shard for each in done)
    return DatasetInfo(tuple(classes), shards, sha256_hex(index), about), index


@contextlib.contextmanager
def removed_on_refusal(destination: Store, journal: Journal) -> Iterator[None]:
    """Delete the written shards and the journal on an InputError; a kill or a full disk leaves them."""
    try:
        yield
    except InputError:
        for name in destination.list():
            if name.endswith(".tar"):
                destination.delete(name)
        journal.clear()
        raise


def _copy_shards(growth: Growth, destination: Store, journal: Journal) -> list[Done]:
    """Copy the full shards of a growing dataset, and index them again."""
    done: list[Done] = []
    for shard in growth.full_shards:
        columns: dict[str, list[Any]] = {name: [] for name in INDEX_SCHEMA.names}
        with destination.put_file(shard.name) as path:
            shutil.copyfile(growth.base.shard_path(shard), path)
            index_tar(path, len(done), columns)
            check_shard(path, shard, str(growth.base.shard_path(shard)))
        done.append(Done(shard, 0, [], pa.table(columns, schema=INDEX_SCHEMA)))
        journal.add(done[-1], len(done) - 1)
    return done


def check_keys(samples: Sequence[Sample]) -> None:
    """Refuse samples that share a key. Raises DatasetError."""
    key, count = Counter(sample.key for sample in samples).most_common(1)[0]
    if count > 1:
        places = [str(sample.place) for sample in samples if sample.key == key]
        raise DatasetError(
            f"key {key!r} occurs {count} times: {', '.join(places[:3])}",
            "Samples with the same key could not be distinguished.",
            "rename or remove all but one; in a tar, put the members of a sample next to each other",
        )


def _identities(source: Source | Growth) -> dict[str, str]:
    """Return the identities of a packed source's shards, by their sha256; empty for other sources."""
    if not isinstance(source, Source) or source.packed is None:
        return {}
    return {shard.sha256: shard.identity for shard in source.packed.shards}


def _plan_sha256(source: Source | Growth, options: Sequence[Any]) -> str:
    digest = hashlib.sha256(canonical_json([source.kind, list(source.classes), options]))
    for sample in source.samples:
        digest.update(f"{sample.key}\0{sample.label}\0{sample.place.num_bytes}\n".encode())
    return digest.hexdigest()
