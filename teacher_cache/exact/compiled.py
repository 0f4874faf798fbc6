"""Compilation by numba: machine code kept on disk, or in memory where no folder can be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Compile a function of numbers and arrays at its first call, for each combination of types it is given.

    It runs without the interpreter's lock, and without fast-math: IEEE arithmetic, as written.
    """
    try:
        return cast("_Function", numba.njit(nogil=True, cache=True)(function))
    except RuntimeError:  # numba found no folder to keep the code in
        return cast("_Function", numba.njit(nogil=True)(function))
