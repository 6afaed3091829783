"""Compiles functions with numba. No function uses fast-math: the same input gives the same bytes on every processor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit

F = TypeVar("F", bound=Callable[..., Any])


def compiled(function: F) -> F:
    """Compile on first use, cache the machine code on disk, release the interpreter's lock while running.

    Without a folder that can be written, neither here nor in the user's home, each process compiles for itself.
    """
    try:
        made: Any = njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:
        made = njit(nogil=True, error_model="numpy")(function)
    return cast(F, made)
