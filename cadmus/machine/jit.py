"""Compilation by numba, kept on disk where there is a place for it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from numba import njit

_notes: set[str] = set()  # what has been said


def jit(function: Callable | None = None, **options: Any) -> Any:
    """Decorate a function that numba compiles without Python objects, outside of the interpreter's lock.

    The compiled code is cached beside the source, or in NUMBA_CACHE_DIR. Where neither can be written to, it is
    compiled anew by every process, and one line on standard error says so.

    options: numba's, `error_model="numpy"` for instance.
    """

    def decorate(function: Callable) -> Any:
        try:
            return njit(function, cache=True, nogil=True, **options)
        except RuntimeError as error:
            if "cannot cache function" not in str(error):
                raise
            _say_once(
                "cadmus: compiled code cannot be stored, so each start compiles it anew (seconds); set NUMBA_CACHE_DIR "
                "to a folder that you may write to"
            )
            return njit(function, nogil=True, **options)

    return decorate if function is None else decorate(function)


def _say_once(note: str) -> None:
    if note not in _notes:
        _notes.add(note)
        print(note, file=sys.stderr)
