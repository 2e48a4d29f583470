"""What commands share: help texts, progress bars, a look at whether the output folder can be written to, tables."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cadmus.runtime.progress import Progress

if TYPE_CHECKING:
    import pandas as pd


def paragraphs(text: str) -> str:
    """Help text as written in the code: paragraphs apart by empty lines, their own line breaks free."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def check_writable(folder: Path, kind: str | None = None) -> None:
    """OSError now, not after minutes of work, where nothing can be written to `folder`; ValueError where it holds an
    artifact of another kind than the one to be written, or files that are not ours and would be overwritten.
    The folder is not made yet: work that fails leaves no empty one."""
    from cadmus.runtime.artifacts import check_free

    if kind is not None:
        check_free(folder, kind)
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    probe = there / f".writable-{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from None


@contextlib.contextmanager
def progress_bars(*, shown: bool = True) -> Iterator[Progress]:
    """Progress bars, one per stage: yields `stage(name, share done, note)`. Drawn on standard error, if at all; lines
    where that is no terminal, but the log of a job."""
    if shown and not sys.stderr.isatty():
        yield _progress_lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<26}"),
        BarColumn(bar_width=12),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[note]}"),
    )
    tasks: dict[str, int] = {}
    bars = Progress(*columns, console=Console(stderr=True), disable=not shown)

    def stage(name: str, share: float, note: str = "") -> None:
        if not tasks:
            bars.start()
        if name not in tasks:
            tasks[name] = bars.add_task(name, total=1.0, note="")
        bars.update(tasks[name], completed=share, note=note)

    try:
        yield stage
    finally:
        if tasks:
            bars.stop()


def _progress_lines(every: float = 60.0) -> Progress:
    """A line when a stage ends, and meanwhile one in `every` seconds."""
    started = told = time.monotonic()
    ended: set[str] = set()

    def stage(name: str, share: float, note: str = "") -> None:
        nonlocal told
        now = time.monotonic()
        if name in ended or (share < 1 and now - told < every):
            return
        told = now
        if share >= 1:
            ended.add(name)
        print(f"{now - started:7.1f} s  {name} {share:.0%}  {note}".rstrip(), file=sys.stderr, flush=True)

    return stage


def print_rows(rows: list[tuple[str, ...]]) -> None:
    """A table of text on standard output: the first row is its head; columns as wide as they need to be."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def check_table_path(path: Path | None) -> None:
    """ValueError or OSError, before the work is done, where a table cannot be written to `path`; None is fine."""
    if path is None:
        return
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{path} ends neither in .csv nor in .parquet; name one of these")
    check_writable(path.parent)


def save_table(table: pd.DataFrame, path: Path) -> Path:
    """Write a table as .csv or .parquet, by the path's ending (ValueError for another)."""
    from cadmus.runtime.artifacts import write_bytes

    check_table_path(path)
    csv = path.suffix == ".csv"
    return write_bytes(path, table.to_csv(index=False).encode() if csv else table.to_parquet(index=False))
