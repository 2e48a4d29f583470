"""One run at a time in a folder: a lock that dies with the process that holds it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from cadmus.runtime.artifacts import ArtifactError

_NAME = ".lock"


class _Held(threading.local):
    """The folders that this thread holds."""

    def __init__(self) -> None:
        self.folders: set[Path] = set()


_of_thread = _Held()


@contextlib.contextmanager
def sole_writer(folder: Path | str) -> Iterator[None]:
    """Hold a folder for one run while the context lasts; within the thread that holds it, nothing happens.

    The folder is made where it does not exist, and removed again where nothing was put into it. The lock is a file in
    the folder that the operating system frees when its process ends, however it ends. Raises ArtifactError where
    another run holds the folder, OSError where nothing can be written there.
    """
    place = Path(os.path.realpath(folder))  # unlike resolve(), no RuntimeError of its own for a loop of links
    if place in _of_thread.folders:
        yield
        return
    missing = [path for path in (place, *place.parents) if not path.exists()]
    place.mkdir(parents=True, exist_ok=True)
    lock = FileLock(place / _NAME)
    try:
        with _acquire(lock, folder):
            _of_thread.folders.add(place)
            try:
                yield
            finally:
                _of_thread.folders.discard(place)
                Path(lock.lock_file).unlink(missing_ok=True)  # while it is held, so that nobody else's goes
    finally:
        with contextlib.suppress(OSError):  # the first that is not empty ends it
            for path in missing:
                path.rmdir()


def _acquire(lock: FileLock, folder: Path | str) -> contextlib.AbstractContextManager:
    """Take the lock at once, or raise ArtifactError."""
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        raise ArtifactError(
            f"{folder} is being written by another run; wait until it ends, or choose another folder"
        ) from None
