"""Compile functions with numba; machine code is kept on disk, or in memory if no folder can be written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

_Function = TypeVar("_Function", bound=Callable[..., Any])


def compiled(function: _Function) -> _Function:
    """Compile a function of numbers and arrays at its first call with each combination of types.

    The machine code releases the GIL, and follows IEEE arithmetic as written (no fast-math).
    """
    try:
        return cast("_Function", numba.njit(nogil=True, cache=True)(function))
    except RuntimeError:  # numba found no folder to keep the code in
        return cast("_Function", numba.njit(nogil=True)(function))
