"""Samples in a WebDataset tar: neighbouring members with one name up to the first dot; tars without an end,
odd members and duplicates are refused.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from teacher_cache.dataset.sources.left_out import HIDDEN, NO_SAMPLE, LeftOut, is_system
from teacher_cache.dataset.sources.sample import Span
from teacher_cache.dataset.sources.source import readable
from teacher_cache.errors import DatasetError


class TarSample(NamedTuple):
    """A sample of a tar.

    Attributes:
        name: Name of its members up to the first dot, without a leading "./".
        spans: Spans of its members in the tar, by extension.
        data: Content of the members that were read, by extension.
    """

    name: str
    spans: dict[str, Span]
    data: dict[str, bytes]


def tar_samples(
    stream: BinaryIO, file: str, left_out: LeftOut, reads: Callable[[str], bool]
) -> Iterator[TarSample]:
    """Yield the samples of a tar in order, those of META included.

    Args:
        stream: Content of the tar, from its beginning; read forward, header by header.
        file: Name of the tar, for messages.
        left_out: Collection that hidden members and members without an extension are added to.
        reads: Function that tells, by extension, whether a member's content is read on the way.

    Raises:
        DatasetError: The tar is damaged, is cut off, or has a member that could not be read safely.
    """
    sample: TarSample | None = None
    with readable(file), tarfile.open(fileobj=stream, mode="r:") as tar:
        for member in tar:
            if member.isdir():
                continue
            name = member.name.removeprefix("./")
            parts = name.split("/")
            if any(is_system(part) for part in parts if part != ".."):
                left_out.add(f"{member.name} in {file}", HIDDEN)
                continue
            if not member.isreg() or name.startswith("/") or ".." in parts or "" in parts:
                raise DatasetError(
                    f"member {member.name!r} of {file}",
                    "Only regular files inside the tar's own folder are read.",
                    "repack the source without it",
                )
            stem, dot, extension = _split(name)
            if not dot or not extension:
                left_out.add(f"{member.name} in {file}", NO_SAMPLE)
                continue
            if sample is None or stem != sample.name:
                if sample is not None:
                    yield sample
                sample = TarSample(stem, {}, {})
            if extension in sample.spans:
                raise DatasetError(f"member {member.name!r} is twice in {file}", "One would hide the other.")
            sample.spans[extension] = (member.offset_data, member.size)
            if reads(extension):
                sample.data[extension] = _content(tar, member)
            tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every header
        stream.seek(tar.offset)
        end = stream.read(tarfile.BLOCKSIZE)
        if len(end) < tarfile.BLOCKSIZE or end.strip(b"\0"):
            raise DatasetError(
                f"{file} ends without the blocks that end a tar, after {tar.offset:,} bytes",
                "It is cut off or damaged, and samples may be missing.",
                "copy it again, or write it again",
            )
    if sample is not None:
        yield sample


def samples_of(file: Path) -> Iterator[tuple[str, dict[str, Span]]]:
    """Yield (name, extension -> span) of the samples of a tar that this program wrote; see `tar_samples`."""
    with file.open("rb") as stream:
        for sample in tar_samples(stream, str(file), LeftOut(), lambda _: False):
            yield sample.name, sample.spans


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = tar.extractfile(member)
    assert content is not None
    data = content.read()
    if len(data) < member.size:
        raise tarfile.ReadError("unexpected end of data")
    return data


def _split(name: str) -> tuple[str, str, str]:
    """Split a member's name at the first dot of its last part, as WebDataset does."""
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    return folder + slash + stem, dot, extension
