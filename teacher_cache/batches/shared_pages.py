"""Unnamed memory that two processes share; the system frees it when the last of them ends.

On Linux it is a memfd, which the size of /dev/shm does not bound; elsewhere an unlinked temporary file.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
import weakref
from collections.abc import Callable
from multiprocessing import reduction
from typing import Any

import numpy as np
import numpy.typing as npt

from teacher_cache.errors import FullError


class SharedPages:
    """Shared memory that grows on demand; a process that receives it at its start maps the same pages.

    Args:
        fd: File descriptor of pages that another process made; None makes new ones.
    """

    def __init__(self, fd: int | None = None) -> None:
        self._fd = _new_file() if fd is None else fd
        self._map: mmap.mmap | None = None
        weakref.finalize(self, os.close, self._fd)

    def __reduce__(self) -> tuple[Callable[[Any], SharedPages], tuple[Any]]:
        return _attached, (reduction.DupFd(self._fd),)

    @property
    def num_bytes(self) -> int:
        """Size that is mapped into this process."""
        return 0 if self._map is None else len(self._map)

    def grow(self, num_bytes: int) -> None:
        """Make room for at least `num_bytes`; pages take memory when they are first written.

        Raises:
            FullError: The disk of a temporary file has no room.
        """
        if num_bytes <= self.num_bytes:
            return
        if not hasattr(os, "memfd_create") and hasattr(os, "posix_fallocate"):
            try:  # else a full disk would kill the process that writes
                os.posix_fallocate(self._fd, 0, num_bytes)
            except OSError as error:
                raise FullError(
                    f"{tempfile.gettempdir()} has no room for {num_bytes:,} bytes of rendered views",
                    "Processes that render hand views over in a temporary file.",
                    "make room, set TMPDIR to another folder, or use fewer --workers",
                ) from error
        os.truncate(self._fd, max(num_bytes, os.fstat(self._fd).st_size))
        self._map = mmap.mmap(self._fd, num_bytes)  # arrays of the old map keep it

    def release(self) -> None:
        """Give the memory back to the system, where it can; the pages are empty then."""
        if self._map is not None and hasattr(mmap, "MADV_REMOVE"):
            with contextlib.suppress(OSError):  # a file system of temporary files may not know it
                self._map.madvise(mmap.MADV_REMOVE)

    def array(self, num_bytes: int) -> npt.NDArray[np.uint8]:
        """Return the first `num_bytes`, which `grow` has made room for."""
        assert self._map is not None
        return np.frombuffer(self._map, np.uint8, num_bytes)


def _new_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("rendered-views", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _attached(duplicate: Any) -> SharedPages:
    return SharedPages(duplicate.detach())
