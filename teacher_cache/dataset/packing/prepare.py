"""Prepare samples for packing in threads: read, decode to check, re-encode, rewrite, and lay out in a tar."""

from __future__ import annotations

import collections
import hashlib
import itertools
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from teacher_cache import images
from teacher_cache.dataset.packing.shard_tar import sample_bytes
from teacher_cache.dataset.sources.source import Members, Sample, Span
from teacher_cache.dataset.sources.tar_members import CLASS_EXTENSION
from teacher_cache.errors import DatasetError, ImageError
from teacher_cache.jpeg.rewrite import rewrite

_TOGETHER = 16
"""Samples prepared by one call of a thread."""
_CALLS_PER_THREAD = 4
"""Calls under way for each thread: enough that none waits, and few images in memory."""
_LEAST_PIXELS = 128 * 128
"""Pixels of an image below which decoding it whole is quicker than cutting a crop out."""


class Reencode(NamedTuple):
    """Re-encoding of a dataset's images to smaller ones."""

    max_side_px: int
    quality: int


class Work(NamedTuple):
    """A sample to prepare, and how.

    Attributes:
        reencode: Re-encoding; None keeps the image's bytes.
        crops: Rewrite a JPEG so that crops can be cut out of it.
    """

    sample: Sample
    reencode: Reencode | None
    crops: bool


class Prepared(NamedTuple):
    """A sample as its part of a tar.

    Attributes:
        data: Headers and content of its members.
        image: Span of the image in `data`.
        sha256: Digest of the image's bytes.
        error: Reason why the image cannot be used; `data` is empty then.
        original: Bytes of the tar with the image before rewriting; None if rewriting changed nothing.
        is_cuttable: Whether the image was rewritten so that crops can be cut out of it.
        unused: What the image holds beside its pixels as they are decoded; see `images.unused_parts`.
    """

    sample: Sample
    data: bytes
    image: Span
    sha256: bytes
    error: ImageError | None
    original: bytes | None = None
    is_cuttable: bool = False
    unused: Sequence[str] = ()


def prepare_all(work: Iterable[Work], threads: int) -> Generator[Prepared, None, None]:
    """Yield prepared samples in order, a bounded number ahead.

    Close the generator: garbage collection may end it in one of its threads, which would wait for itself.

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
    sample = work.sample
    try:
        members = sample.place.read()
    except OSError as error:
        raise DatasetError(
            f"{sample.place} cannot be read: {error}", "Nothing was packed.", "check the source"
        ) from error
    unused = images.unused_parts(members.image)
    try:
        members, rewritten = _checked(members, str(sample.place), work)
    except ImageError as error:
        return Prepared(sample, b"", (0, 0), b"", error)
    extension = images.extension_of(members.image)
    label = {} if sample.label is None else {CLASS_EXTENSION: str(sample.label).encode()}
    clash = {extension, *label} & set(members.others)
    if clash:
        raise DatasetError(
            f"{sample.place} has a member {', '.join(clash)}, the extension of its packed image or label",
            "One would replace the other.",
            "remove or rename the member in the source",
        )
    image = members.image if rewritten is None else rewritten
    others = {**label, **members.others}
    data, spans = sample_bytes(sample.key, {extension: image, **others})
    original = None
    if image != members.image:
        original = sample_bytes(sample.key, {extension: members.image, **others})[0]
    digest = hashlib.sha256(image).digest()
    return Prepared(sample, data, spans[extension], digest, None, original, rewritten is not None, unused)


def _checked(members: Members, name: str, work: Work) -> tuple[Members, bytes | None]:
    """Return a sample whose image decodes, re-encoded if asked, and its JPEG with restart markers or None."""
    reencode = work.reencode
    limit = images.MAX_PIXELS_TO_SHRINK if reencode else images.MAX_PIXELS
    pixels_HWC = images.decode(members.image, name, limit)
    if reencode is not None:
        small_HWC = images.shrink(pixels_HWC, reencode.max_side_px)
        images.check_size(name, *small_HWC.shape[:2])
        members = members._replace(image=images.encode_jpeg(small_HWC, reencode.quality))
        pixels_HWC = images.decode(members.image, name)
    return members, _rewritten(members.image, name, pixels_HWC) if work.crops else None


def _rewritten(image: bytes, name: str, pixels_HWC: images.Pixels) -> bytes | None:
    """Return a JPEG rewritten for crops, if it is large, can be rewritten, and decodes to the same pixels."""
    large = pixels_HWC.shape[0] * pixels_HWC.shape[1] >= _LEAST_PIXELS
    rewritten = rewrite(image) if large else None
    if rewritten is None:
        return None
    try:
        is_same = np.array_equal(images.decode(rewritten, name), pixels_HWC)
    except ImageError:
        return None
    return rewritten if is_same else None
