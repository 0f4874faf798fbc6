"""Prepare samples for packing in threads: read, decode to check, re-encode, and lay out as part of a tar."""

from __future__ import annotations

import collections
import hashlib
import itertools
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from teacher_cache import images
from teacher_cache.dataset.sample import Members, Sample, Span
from teacher_cache.dataset.tar_bytes import sample_bytes
from teacher_cache.dataset.tar_labels import CLASS_EXTENSION
from teacher_cache.errors import DatasetError, ImageError

_TOGETHER = 16
"""Samples prepared by one call of a thread."""
_CALLS_PER_THREAD = 4
"""Calls under way for each thread: enough that none waits, and few images in memory."""


class Reencode(NamedTuple):
    """Re-encoding of a dataset's images to smaller ones."""

    max_side_px: int
    quality: int


class Work(NamedTuple):
    """A sample to prepare, and how.

    Attributes:
        sample: Sample.
        reencode: Re-encoding; None keeps the image's bytes.
    """

    sample: Sample
    reencode: Reencode | None


class Prepared(NamedTuple):
    """A sample as its part of a tar.

    Attributes:
        sample: Sample.
        data: Headers and content of its members.
        image: Span of the image in `data`.
        sha256: Digest of the image's bytes.
        error: Reason why the image cannot be used; `data` is empty then.
    """

    sample: Sample
    data: bytes
    image: Span
    sha256: bytes
    error: ImageError | None


def prepare_all(work: Iterable[Work], threads: int) -> Generator[Prepared, None, None]:
    """Yield prepared samples in order, a bounded number ahead.

    Close the generator: left to garbage collection, it may wait for its threads in one of them.

    Raises:
        DatasetError: A sample cannot be read.
    """
    samples = iter(work)
    calls = iter(lambda: list(itertools.islice(samples, _TOGETHER)), [])
    under_way: collections.deque[Future[list[Prepared]]] = collections.deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for call in calls:
                under_way.append(pool.submit(_prepare_some, call))
                if len(under_way) >= threads * _CALLS_PER_THREAD:
                    yield from under_way.popleft().result()
            while under_way:
                yield from under_way.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _prepare_some(work: list[Work]) -> list[Prepared]:
    return [prepare(each) for each in work]


def prepare(work: Work) -> Prepared:
    """Read a sample, check that its image can be decoded, and lay it out as part of a tar.

    Raises:
        DatasetError: The sample cannot be read, or two of its members would have one name.
    """
    sample, reencode = work
    try:
        members = sample.place.read()
    except OSError as error:
        raise DatasetError(
            f"{sample.place} cannot be read: {error}", "Nothing was packed.", "check the source"
        ) from error
    try:
        members = _checked(members, str(sample.place), reencode)
    except ImageError as error:
        return Prepared(sample, b"", (0, 0), b"", error)
    extension = images.extension_of(members.image)
    label = {} if sample.label is None else {CLASS_EXTENSION: str(sample.label).encode()}
    clash = {extension, *label} & set(members.others)
    if clash:
        raise DatasetError(
            f"{sample.place} has a member {', '.join(clash)} beside the one it would be packed as",
            "One would replace the other.",
            "leave the other member out of the source",
        )
    data, spans = sample_bytes(sample.key, {extension: members.image, **label, **members.others})
    return Prepared(sample, data, spans[extension], hashlib.sha256(members.image).digest(), None)


def _checked(members: Members, name: str, reencode: Reencode | None) -> Members:
    limit = images.MAX_PIXELS_TO_SHRINK if reencode else images.MAX_PIXELS
    pixels_HWC = images.decode(members.image, name, limit)
    if reencode is None:
        return members
    small_HWC = images.shrink(pixels_HWC, reencode.max_side_px)
    images.check_size(name, *small_HWC.shape[:2])
    return members._replace(image=images.encode_jpeg(small_HWC, reencode.quality))
