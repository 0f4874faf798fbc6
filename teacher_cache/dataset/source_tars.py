"""Source of images in WebDataset tars, read strictly: odd names, links and duplicates are refused."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from teacher_cache.dataset.source import KEY, Members, pread, readable
from teacher_cache.errors import DatasetError
from teacher_cache.images import EXTENSIONS


class TarSource:
    """Source of tars with an image and a `cls` (class number) per sample; other members are kept."""

    kind = "webdataset"

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = [file.open("rb") for file in files]
        self._members: list[tuple[int, dict[str, tuple[int, int]]]] = []
        self.keys: list[str] = []
        self.labels: list[int] = []
        for number, file in enumerate(files):
            for key, members in samples_of(file):
                self._append(number, file, key, members)
        if not self.keys:
            raise DatasetError(f"{files[0]} has no samples", "There is nothing to pack.", "check the path")
        self.classes = [str(number) for number in range(max(self.labels) + 1)]

    def _append(self, number: int, file: Path, key: str, members: dict[str, tuple[int, int]]) -> None:
        image = [extension for extension in members if extension.lower() in EXTENSIONS]
        if len(image) != 1 or "cls" not in members:
            raise DatasetError(
                f"sample {key!r} in {file} has members {', '.join(sorted(members))}",
                f"A sample needs one image ({', '.join(EXTENSIONS)}) and a cls.",
                "leave the sample out, or repack the source",
            )
        text = pread(self._files[number].fileno(), *members["cls"])
        if not text.strip().isdigit():
            raise DatasetError(f"sample {key!r} in {file} has cls {text[:20]!r}", "A cls is a class number.")
        self.keys.append(key)
        self.labels.append(int(text))
        self._members.append((number, members))

    def location(self, number: int) -> str:
        return f"sample {self.keys[number]} in {self._files[self._members[number][0]].name}"

    def read(self, number: int) -> Members:
        file, members = self._members[number]
        data = {extension: pread(self._files[file].fileno(), *span) for extension, span in members.items()}
        del data["cls"]
        extension = next(extension for extension in data if extension.lower() in EXTENSIONS)
        return Members(data.pop(extension), data)


def samples_of(file: Path) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """Yield (key, extension -> (offset, size)) of a tar's samples; neighbours with one key are a sample."""
    key: str | None = None
    members: dict[str, tuple[int, int]] = {}
    with readable(file), tarfile.open(file, "r:") as tar:
        for member in tar:
            if member.isdir():
                continue
            stem, dot, extension = _split(member.name)
            if not member.isreg() or not dot or not KEY.fullmatch(stem) or stem.startswith("/"):
                raise DatasetError(
                    f"member {member.name!r} of {file}",
                    "Only regular files named key.extension, of letters, digits, _, - and /, are read.",
                    "repack the source without it",
                )
            if stem != key:
                if key is not None:
                    yield key, members
                key, members = stem, {}
            if extension in members:
                raise DatasetError(f"member {member.name!r} is twice in {file}", "One would hide the other.")
            members[extension] = (member.offset_data, member.size)
    if key is not None:
        yield key, members


def _split(name: str) -> tuple[str, str, str]:
    """Split a member's name at the first dot of its last part, as WebDataset does."""
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    return folder + slash + stem, dot, extension
