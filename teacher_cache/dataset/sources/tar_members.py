"""Members of tars: samples, their images, and their labels."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from teacher_cache import images
from teacher_cache.dataset.sources.class_names import RawLabel
from teacher_cache.dataset.sources.source import (
    HIDDEN,
    NO_SAMPLE,
    LeftOut,
    SourceOptions,
    Span,
    is_system,
    readable,
)
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
                    f"member {member.name!r} of {file} is not a regular file, or has an unsafe path",
                    "Only regular files with relative paths, without .., are read.",
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
                f"{file} has no end-of-archive blocks after {tar.offset:,} bytes",
                "It is truncated or damaged, and samples may be missing.",
                "copy the tar again, or write it again",
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


CLASS_EXTENSION = "cls"
"""Extension of the member that holds the class id, in WebDataset's own datasets and in packed ones."""
_IMAGE_EXTENSIONS = (*images.EXTENSIONS, "jpe", "jfif", "image", "img")
_PERHAPS_LABELS = ("json", "txt", "id", "index", "class", "label", "labels", "target", "text", "caption")
_NUMBER = re.compile("-?[0-9]{1,18}")


class Parts(NamedTuple):
    """Members of a sample by their meaning.

    Attributes:
        image: Extension of the image.
        label: Class id or name; None for a sample without a label.
        others: Spans of all other members, by extension.
    """

    image: str
    label: RawLabel
    others: Mapping[str, Span]


def is_label(extension: str, options: SourceOptions) -> bool:
    """Return whether a member with this extension holds the label, so that its content must be read."""
    return extension.lower() == _label_extension(options)


def parts_of(sample: TarSample, where: str, options: SourceOptions) -> Parts:
    """Return the image and label of a sample.

    Args:
        sample: Sample whose label member was read.
        where: Place of the sample, for messages.

    Raises:
        DatasetError: The image or the label is not certain, or the label says nothing.
    """
    by_lower = {extension.lower(): extension for extension in sample.spans}
    if len(by_lower) < len(sample.spans):
        raise DatasetError(f"{where} has members {_listed(sample)}", "Their names differ in case alone.")
    wanted = options.image_key.lower().split(";") if options.image_key else _IMAGE_EXTENSIONS
    found = [by_lower[extension] for extension in by_lower if extension in wanted]
    if len(found) != 1:
        inner = " (these are tars in a tar: unpack it first)" if "tar" in by_lower else ""
        raise DatasetError(
            f"{where} has members {_listed(sample)}{inner}",
            f"It has {len(found)} images named {', '.join(wanted)}, and needs one.",
            "name the image's extension: --image-key EXT; or leave the sample out of the source",
        )
    label = None if options.unlabelled else _label_of(sample, by_lower, where, options)
    kept = {
        extension: span
        for extension, span in sample.spans.items()
        if extension != found[0] and extension.lower() != CLASS_EXTENSION
    }
    return Parts(found[0], label, kept)


def _label_extension(options: SourceOptions) -> str:
    return (options.label_key or CLASS_EXTENSION).partition(":")[0].lower()


def _label_of(sample: TarSample, by_lower: Mapping[str, str], where: str, options: SourceOptions) -> RawLabel:
    extension = by_lower.get(_label_extension(options))
    if extension is None:
        perhaps = [
            name for name in by_lower if name.rpartition(".")[2] in (*_PERHAPS_LABELS, CLASS_EXTENSION)
        ]
        if options.label_key is None and not perhaps and "/" not in sample.name:
            return None
        reason = f"{', '.join(perhaps)} may hold the label" if perhaps else "its folder may be its class"
        raise DatasetError(
            f"{where} has members {_listed(sample)}, but no {_label_extension(options)}",
            f"{reason[0].upper()}{reason[1:]}, but nothing confirms it.",
            "name the label's extension: --label-key EXT, or json:FIELD; where folders are classes, "
            "unpack the tar; or pack the images without labels: --unlabelled",
        )
    text = sample.data[extension]
    field = (options.label_key or "").partition(":")[2]
    try:
        value = _field_of(text, field) if extension.lower().endswith("json") else text.decode().strip()
    except ValueError as error:
        raise DatasetError(
            f"{where} has {extension} {text[:40]!r}: {error}",
            "No label can be read from it.",
            "correct the file; if it is JSON, name the field of the label: --label-key json:FIELD",
        ) from error
    if isinstance(value, int) or (isinstance(value, str) and _NUMBER.fullmatch(value)):
        return int(value)
    if not value:
        raise DatasetError(f"{where} has an empty {extension}", "It holds no label.", "leave the sample out")
    return value


def _field_of(text: bytes, field: str) -> int | str:
    document = json.loads(text)
    if field and (not isinstance(document, dict) or field not in document):
        there = ", ".join(map(str, document)) if isinstance(document, dict) else "no fields"
        raise ValueError(f"it has {there}, not {field!r}")
    value = document[field] if field else document
    if isinstance(value, bool):
        return str(value)
    if not isinstance(value, (int, str)):
        raise ValueError(f"a {type(value).__name__} cannot be a class id or name")
    return value


def _listed(sample: TarSample) -> str:
    return ", ".join(sorted(sample.spans))
