"""The command as a process: its standard streams, which may be closed, full or cut off, and the signals that end it."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from types import FrameType

CUT_OFF = 141  # as a shell tells of a process that wrote to a pipe which nobody reads: 128 + SIGPIPE
_signals: list[int] = []  # those that have ended the work


def keep_streams() -> None:
    """Put the null device where a standard stream is closed: a file that is opened later would take its place, and be
    written into. A standard error that is closed then swallows what it is told; `sys.stdin` and `sys.stdout` stay None.
    What the terminal's encoding lacks, a letter of a path, is printed by its number: work that is done does not fail.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (until the process ends)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def end_on_signals() -> None:
    """Let SIGTERM and SIGHUP end the work as Ctrl-C does, so that nothing half-written stays; a second one kills.

    One that the parent has set to be ignored (nohup) stays so; the processes of torchrun, which wait for each other,
    die at once.
    """
    if "RANK" in os.environ:
        return
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    _signals.append(number)
    raise KeyboardInterrupt


def interrupted_status() -> int:
    """The exit code of work that was interrupted: 128 and the signal's number, that of Ctrl-C where there was none."""
    return 128 + (_signals[-1] if _signals else signal.SIGINT)


def say(text: str) -> None:
    """Print a line on standard error; work does not end where nobody can be told."""
    with contextlib.suppress(OSError, ValueError):  # a full disk, a closed pipe; a file that is closed
        print(text, file=sys.stderr, flush=True)
