"""Process that renders one task after another, and ends with its parent process."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import pickle
import signal
import sys
import traceback
import types
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol, TypeVar

from teacher_cache.batches.rendered import Empty, Pixels, RenderedBatch, allocate
from teacher_cache.batches.shared_pages import SharedPages
from teacher_cache.errors import InputError, LostProcessError

_Task_contra = TypeVar("_Task_contra", contravariant=True)
_LOOK_EVERY_S = 2.0
"""Seconds between checks of an idle process that its parent still runs, because the parent may be killed."""
_END_S = 5.0
"""Seconds that a process has to end after SIGTERM."""
_PIPE_BYTES = 65_536 if sys.platform == "linux" else 4_096
"""Largest task that surely fits into a pipe's buffer, so that sending it does not block."""


class Renderer(Protocol[_Task_contra]):
    """Function that a process applies to each task; pickled once per process unless processes are forked."""

    def max_bytes(self, task: _Task_contra) -> int:
        """Return the most bytes that the pixels of a task take."""
        ...

    def render(self, task: _Task_contra, empty: Empty = allocate) -> list[RenderedBatch]:
        """Return the batches of a task, with their pixels in memory that `empty` gives."""
        ...


class _Sent(NamedTuple):
    """A batch as it is sent to the parent: its pixels are replaced by their offset in the shared pages.

    Attributes:
        offset: Offset of the pixels in bytes; None if they did not fit, and are sent with the batch.
        shape_RHWC: Shape of the pixels.
    """

    offset: int | None
    shape_RHWC: tuple[int, ...]
    batch: RenderedBatch


class RenderProcess:
    """Handle of a process that renders, used by its parent.

    Args:
        earlier: Earlier processes of the same parent; a forked process closes their inherited connections.
        num_slots: Most results that are pending or held by readers at once, each in its own shared pages.
    """

    def __init__(self, renderer: Renderer[Any], earlier: Sequence[RenderProcess], num_slots: int) -> None:
        context = multiprocessing.get_context()
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise InputError(
                "a process of multiprocessing is still importing the script, which starts processes again",
                "Every new process would start more processes.",
                'move the code that the script runs below `if __name__ == "__main__":`, or use workers=0',
            )
        self._pages = [SharedPages() for _ in range(num_slots)]
        self._free = deque(range(num_slots))
        self._under_way: deque[int] = deque()
        self._connection, theirs = context.Pipe()
        is_forked = context.get_start_method() == "fork"
        inherited = [process._connection for process in earlier] + [self._connection] if is_forked else []
        self._process = context.Process(
            target=_serve, args=(theirs, inherited, self._pages, renderer), name="render", daemon=True
        )
        with contextlib.nullcontext() if is_forked else _without_script():
            self._process.start()
        theirs.close()

    def takes(self, task: bytes, tasks_ahead: int) -> bool:
        """Return whether another task can be sent now.

        A task larger than the pipe's buffer is sent only when the process has no other: otherwise both sides
        could block, each waiting for the other to read.

        Args:
            task: Task, pickled.
            tasks_ahead: Most tasks that may be under way.
        """
        under_way = len(self._under_way)
        return bool(self._free) and under_way < (tasks_ahead if len(task) <= _PIPE_BYTES else 1)

    def send(self, task: bytes, max_bytes: int) -> None:
        """Send a pickled task whose pixels take at most `max_bytes`.

        Raises:
            LostProcessError: The process ended.
            FullError: There is no room for the pixels.
        """
        self._pages[self._free[0]].grow(max_bytes)
        slot = self._free.popleft()
        self._under_way.append(slot)
        try:
            self._connection.send((slot, max_bytes))
            self._connection.send_bytes(task)
        except (BrokenPipeError, ConnectionResetError):
            raise self._lost() from None

    def receive(self) -> list[RenderedBatch] | Exception:
        """Wait for the oldest task; return its batches, or the exception that it raised.

        The batches' pixels stay in shared pages until nothing refers to them. If readers hold all other
        pages, the pixels are copied, so that the process always has pages for another task.

        Raises:
            LostProcessError: The process ended.
        """
        result = self._reply()
        slot = self._under_way.popleft()
        if isinstance(result, Exception):
            self._free.append(slot)
            return result
        num_bytes = max((end for sent in result if (end := _end_of(sent))), default=0)
        if not num_bytes:
            self._free.append(slot)
            return [sent.batch for sent in result]
        pixels = self._pages[slot].array(num_bytes)
        if self._free:
            weakref.finalize(pixels, self._free.append, slot).atexit = False
        else:
            pixels = pixels.copy()
            self._free.append(slot)
        return [_with_pixels(sent, pixels) for sent in result]

    def drop_results(self) -> None:
        """Forget the tasks under way, after waiting for their results. Raises LostProcessError."""
        while self._under_way:
            self._reply()
            self._free.append(self._under_way.popleft())

    def release(self) -> None:
        """Give the memory of free slots back to the system."""
        for slot in list(self._free):
            self._pages[slot].release()

    def ask_to_end(self) -> None:
        """Close the connection and send SIGTERM: EOF may not arrive while others hold copies of it."""
        self._connection.close()
        self._process.terminate()

    def end(self) -> None:
        """Wait for the end of a process that was asked to end, and kill one that does not."""
        self._process.join(_END_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _reply(self) -> list[_Sent] | Exception:
        try:
            return self._connection.recv()
        except (EOFError, ConnectionResetError):
            raise self._lost() from None

    def _lost(self) -> LostProcessError:
        self._process.join(_END_S)
        code = self._process.exitcode
        how = f"exit code {code}"
        if code is not None and code < 0:
            how = signal.Signals(-code).name
        return LostProcessError(
            f"a process that renders views ended with {how} (pid {self._process.pid})",
            "Its batch is lost. SIGKILL often means that memory ran out; other causes are printed above.",
            "use fewer --workers or a smaller batch, or render in this process with 0 workers",
        )


def _end_of(sent: _Sent) -> int:
    return 0 if sent.offset is None else sent.offset + math.prod(sent.shape_RHWC)


def _with_pixels(sent: _Sent, pixels: Pixels) -> RenderedBatch:
    if sent.offset is None:
        return sent.batch
    images_RHWC = pixels[sent.offset : _end_of(sent)].reshape(sent.shape_RHWC)
    return sent.batch._replace(images_RHWC=images_RHWC)


@contextlib.contextmanager
def _without_script() -> Iterator[None]:
    """Start processes that do not import the user's script, which may import torch or begin to train.

    A process that is not forked imports the script that `__main__` names when multiprocessing starts it.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


class _Room:
    """Allocator in the shared pages of a slot; when they are full, it allocates the process's own memory."""

    def __init__(self, pages: Pixels) -> None:
        self._pages, self._used = pages, 0

    def empty(self, num_bytes: int) -> Pixels:
        start, self._used = self._used, self._used + num_bytes
        return self._pages[start : self._used] if self._used <= len(self._pages) else allocate(num_bytes)


def _serve(
    connection: Connection,
    inherited: Sequence[Connection],
    pages: Sequence[SharedPages],
    renderer: Renderer[Any],
) -> None:
    """Render tasks until the parent is gone; then exit without waiting for threads that read ahead."""
    # A terminal sends SIGINT to parent and children; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    for other in inherited:
        other.close()  # else this process would keep its parent's end of the connection open
    parent = os.getppid()
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            while not connection.poll(_LOOK_EVERY_S):
                if os.getppid() != parent:
                    os._exit(0)
            slot, max_bytes = connection.recv()
            connection.send(_result(renderer, connection.recv(), pages[slot], max_bytes))
    os._exit(0)


def _result(
    renderer: Renderer[Any], task: Any, pages: SharedPages, max_bytes: int
) -> list[_Sent] | Exception:
    try:
        pages.grow(max_bytes)
        shared = pages.array(max_bytes) if max_bytes else allocate(0)  # a rank's last batch may be empty
        batches = renderer.render(task, _Room(shared).empty)
    except Exception as error:
        return _portable(error)
    return [_sent(batch, shared) for batch in batches]


def _portable(error: Exception) -> Exception:
    """Return `error`, or a RuntimeError if it cannot be pickled, with this process's traceback as a note."""
    error.add_note(f"In a process that renders:\n{traceback.format_exc()}")
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an error of a library, whose arguments are not those that made it
        plain = RuntimeError(f"{type(error).__name__}: {error}")
        plain.add_note(error.__notes__[-1])
        return plain
    return error


def _sent(batch: RenderedBatch, shared: Pixels) -> _Sent:
    images_RHWC = batch.images_RHWC
    offset = images_RHWC.ctypes.data - shared.ctypes.data
    if not 0 <= offset <= len(shared) - images_RHWC.size:
        return _Sent(None, images_RHWC.shape, batch)
    return _Sent(offset, images_RHWC.shape, batch._replace(images_RHWC=images_RHWC[:0]))
