"""Source of images in class folders."""

from __future__ import annotations

from pathlib import Path

from teacher_cache.dataset.source import Members, clean_key
from teacher_cache.errors import DatasetError
from teacher_cache.images import EXTENSIONS

_UNREAD = ("bmp", "gif", "tif", "tiff", "ppm", "pgm", "avif", "heic")


class FolderSource:
    """Source root/class name/.../image.jpg, read like torchvision's ImageFolder: classes in order of name."""

    kind = "folders"

    def __init__(self, root: Path) -> None:
        folders = class_folders(root)
        found = [(label, file) for label, folder in enumerate(folders) for file in _images_under(folder)]
        if not found:
            raise DatasetError(
                f"source {str(root)!r} has no image in a class folder, no .parquet and no .tar",
                "There is nothing to pack.",
                f"give a folder of class folders with images ({', '.join(EXTENSIONS)})",
            )
        filled = {label for label, _ in found}
        empty = [folder.name for label, folder in enumerate(folders) if label not in filled]
        if empty:
            raise DatasetError(
                f"class folders without an image: {', '.join(empty[:5])}",
                "They would be classes that nothing belongs to.",
                f"remove them, or convert their images to {', '.join(EXTENSIONS)}",
            )
        self.classes = [folder.name for folder in folders]
        self.labels = [label for label, _ in found]
        self._files = [file for _, file in found]
        self.keys = [clean_key(str(file.relative_to(root).with_suffix(""))) for file in self._files]

    def location(self, number: int) -> str:
        return str(self._files[number])

    def read(self, number: int) -> Members:
        return Members(self._files[number].read_bytes(), {})


def class_folders(root: Path) -> list[Path]:
    """Return the folders in a folder, sorted, without hidden ones; none for a file."""
    entries = root.iterdir() if root.is_dir() else ()
    return sorted(entry for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _images_under(folder: Path) -> list[Path]:
    """Return a class's images, sorted; refuse images of formats that would be silently left out."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    unread = [file for file in files if file.suffix[1:].lower() in _UNREAD]
    if unread:
        raise DatasetError(
            f"{unread[0]} is of a format that is not read",
            "It would be missing.",
            f"convert it to {EXTENSIONS[0]}",
        )
    return [file for file in files if file.suffix[1:].lower() in EXTENSIONS]
