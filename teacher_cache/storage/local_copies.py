"""Temporary local copies of remote files and folders, for libraries that read local paths alone."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from teacher_cache.storage.places import path_inside
from teacher_cache.storage.store import Store


@contextlib.contextmanager
def local_file(url: str) -> Iterator[str]:
    """Yield the local path of a file at any URL: its own, or that of a temporary copy."""
    folder, _, name = url.rpartition("/")
    if "://" not in url:
        yield url
        return
    with Store(folder).local_copy(name) as path:
        renamed = path.with_name(name)  # what reads it may go by its ending
        path.rename(renamed)
        yield str(renamed)


@contextlib.contextmanager
def local_folder(url: str) -> Iterator[str]:
    """Yield the local path of a folder or file, or that of a temporary folder with copies of a remote one.

    Raises:
        InputError: The name of an object leads out of the folder.
    """
    store = Store(url)
    if store.is_local:
        yield url
        return
    with tempfile.TemporaryDirectory() as folder:
        for name in store.list():
            path = Path(path_inside(folder, name or Path(url).name))
            path.parent.mkdir(parents=True, exist_ok=True)
            store.copy_to(name, path)
        yield folder
