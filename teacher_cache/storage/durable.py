"""Durable writes and locks, also on file systems without links, fsync of folders, or locks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from pathlib import Path

from teacher_cache.errors import InputError

_BUSY_S = 5.0
"""Seconds in which a lock is tried: workers of a process that was killed may hold it for a moment."""
_NO_SUCH_CALL = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM)
"""Answers of file systems that cannot link a file, or sync a folder: exFAT, SMB, many FUSE."""


def lock_soon(handle: int, folder: str) -> None:
    """Lock an open folder, or raise InputError if another process still holds the lock after some seconds."""
    end_s = time.monotonic() + _BUSY_S
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > end_s:
                raise InputError(
                    f"{folder} is in use by another process",
                    "The files of two runs would be mixed.",
                    "wait until it ends, or choose another folder",
                ) from error
        time.sleep(0.05)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, each durable before anything lies in it."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        fsync(folder.parent)


def link(partial: Path, target: Path) -> None:
    """Give a file a second name, or its only one where there are no links. Raises FileExistsError."""
    try:
        os.link(partial, target)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in _NO_SUCH_CALL:
            raise
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from error
        partial.replace(target)


def fsync(path: Path) -> None:
    """Write a file or folder to the disk, as far as its file system knows how."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SUCH_CALL:
            raise
    finally:
        os.close(handle)


def is_alive(pid: int) -> bool:
    """Return whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    with contextlib.suppress(OSError):  # there is no /proc elsewhere than on Linux
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state != "Z"  # it has ended, and its parent has not asked for it
    return True
