"""Index images in their own tars or parquet files, on a disk or in a bucket; no image is copied.

The index describes the shards that packing the same samples in order would write, so that the dataset has the
same identity, and its archives the same labels, as a packed copy.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from teacher_cache.dataset.index import DATASET_FILE, IN_PLACE_SCHEMA, INDEX_FILE, DatasetInfo, InPlace
from teacher_cache.dataset.packing.journal import Done, Journal
from teacher_cache.dataset.packing.pack import Counted, PackOptions, described, removed_on_refusal
from teacher_cache.dataset.packing.prepare import Prepared, Work, prepare_all
from teacher_cache.dataset.packing.shard_draft import ShardDraft
from teacher_cache.dataset.packing.walk import ReadPlace, RepeatedKeysError, Walk
from teacher_cache.dataset.sources.class_names import Classes, classes_of
from teacher_cache.dataset.sources.open import check_members
from teacher_cache.dataset.sources.source import LeftOut, SourceOptions, is_system
from teacher_cache.dataset.sources.splits import check_complete, choose
from teacher_cache.errors import DatasetError, masked
from teacher_cache.exact.canonical import sha256_of
from teacher_cache.program.progress import Advance, Track, ignore
from teacher_cache.storage.store import Store


def index_in_place(
    source: Store,
    names: Sequence[str],
    destination: Store,
    options: SourceOptions,
    packing: PackOptions,
    track: Track,
) -> tuple[DatasetInfo, list[str]]:
    """Index tars or parquet files, decoding every image once to check it; nothing is copied.

    Args:
        names: Names of the files, all tars or all parquet.
        destination: Folder of the dataset: empty, new, or with an unfinished index of the same files.

    Returns:
        The dataset, and what was assumed, as text.

    Raises:
        DatasetError: The files cannot be indexed; see `open_source` and `pack`.
        ImageError: An image cannot be decoded; the message names it.
    """
    if masked(source.url) != source.url:
        raise DatasetError(
            f"--in-place with {source.url}, a URL with a password",
            "The password would be shared with the dataset, which holds the URL.",
            "give the store's credentials in the environment, as AWS_SECRET_ACCESS_KEY",
        )
    sizes = source.sizes()
    plan, chosen = [[name, sizes[name]] for name in names], dataclasses.asdict(options)
    for prefixed in (False, True):
        walk = Walk(source, names, options, prefixed=prefixed)
        asked = [source.url, plan, chosen, packing.shard_size, packing.skip_corrupt, prefixed]
        journal = Journal(destination, sha256_of(asked))
        try:
            with removed_on_refusal(destination, journal):
                done = _all_hashed(walk, journal, packing, sum(sizes[name] for name in names), track)
                classes = _classes(done, walk)
                info, index = described(
                    "parquet" if walk.image_column else "webdataset",
                    classes.names,
                    set(classes.labels),
                    LeftOut.joined([left_out for _, left_out in walk.files]),
                    done,
                    {"seed": 0, "shuffled": False},
                )
        except RepeatedKeysError:
            journal.clear()
            continue
        files = tuple(file for file, _ in walk.files)
        info = dataclasses.replace(info, in_place=InPlace(source.url, files, walk.image_column))
        destination.put(INDEX_FILE, index)
        destination.put(DATASET_FILE, info.to_bytes())
        journal.clear()
        notes = [*walk.notes, *classes.notes]
        if not options.unlabelled and set(classes.labels) == {None}:
            notes.append("no sample has a label: the images are without labels")
        return info, notes
    raise AssertionError  # keys that have their tar's name cannot repeat over tars


def _all_hashed(
    walk: Walk, journal: Journal, packing: PackOptions, num_bytes: int, track: Track
) -> list[Done]:
    """Return all shards: those that an earlier run hashed, and the rest."""
    done = journal.done()
    walk.go_on(done)
    with track("index", num_bytes, "bytes") as advance:
        advance(sum(each.shard.num_bytes for each in done))
        work = (Work(sample, None, crops=False) for sample in walk)
        with contextlib.closing(prepare_all(work, packing.workers)) as prepared:
            counted = Counted(prepared, done, packing.skip_corrupt, ignore)
            return done + _hashed(counted, walk, journal, packing.shard_size, len(done), advance)


def _hashed(
    samples: Counted, walk: Walk, journal: Journal, shard_size: int, number: int, advance: Advance
) -> list[Done]:
    """Hash the tars that packing would write; record each finished one in the journal, and return them."""
    done: list[Done] = []
    good = iter(samples)
    while (first := next(good, None)) is not None:
        draft = ShardDraft(number + len(done), IN_PLACE_SCHEMA, None)
        last = first
        while True:
            place = _place_of(last)
            draft.add(last, offset=place.offset, file=place.file)
            advance(len(last.data), f"{samples.position:,} images")
            following = next(good, None) if len(draft) < shard_size else None
            if following is None:
                break
            last = following
        shard, index = draft.finish()
        progress = walk.progress(_place_of(last))
        skipped, unused = list(samples.skipped), samples.unused.to_json()
        done.append(Done(shard, samples.position, skipped, index, progress, unused=unused))
        journal.add(done[-1], number + len(done) - 1, is_stored=False)
    return done


def _place_of(sample: Prepared) -> ReadPlace:
    place = sample.sample.place
    assert isinstance(place, ReadPlace)
    return place


def _classes(done: Sequence[Done], walk: Walk) -> Classes:
    """Return the classes of all samples. Raises DatasetError if only some have labels."""
    keys = [key for each in done for key in each.index["key"].to_pylist()]
    labels = [label for each in done for label in each.index["label"].to_pylist()]
    return classes_of(labels, lambda number: f"sample {keys[number]}", walk.listed)


def files_in(source: Store, options: SourceOptions, only: str | None = None) -> list[str]:
    """Return the tars or parquet files of the chosen split, below a folder or bucket.

    Args:
        only: Name of the only file to take.

    Raises:
        DatasetError: There are none, or files of both kinds or of several splits.
    """
    if source.stat_optional(DATASET_FILE) is not None:
        raise DatasetError(
            f"{source.url} is a packed dataset already", "It has an index.", "use it as it is: --data"
        )
    names = [only] if only else [n for n in source.list() if not any(map(is_system, n.split("/")))]
    tars, parquet = ([name for name in names if name.endswith(end)] for end in (".tar", ".parquet"))
    if bool(tars) == bool(parquet):
        raise DatasetError(
            f"{source.url} holds {len(tars)} tars and {len(parquet)} parquet files",
            "Images are indexed in place in files of one kind.",
            "give a folder of .tar or of .parquet files; other sources are packed, without --in-place",
        )
    check_members(options, is_parquet=bool(parquet), is_tars=bool(tars))
    found = {Path(name.replace("/", "-")): name for name in tars or parquet}
    files = choose(list(found), options.split, source.url) if options.splits else list(found)
    if only is None:
        check_complete(files)
    return [found[file] for file in files]
