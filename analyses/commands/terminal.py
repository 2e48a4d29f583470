"""What commands share: help texts, a check that the output folder is writable, progress bars, pages and tables."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from analyses.commands.process import say
from cadmus.runtime.progress import Progress

if TYPE_CHECKING:
    import pandas as pd

C = TypeVar("C")  # a study's config


def paragraphs(text: str) -> str:
    """Make help text of a text in the code: empty lines part paragraphs, other line breaks are as good as spaces."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def check_writable(folder: Path, kind: str | None = None) -> None:
    """Raise, before minutes of work, where `folder` cannot be written to; it is not made yet, so that work that fails
    leaves no empty one.

    OSError where nothing can be written; ValueError where the folder holds an artifact of another kind than `kind`, or
    files that are not ours and would be overwritten.
    """
    from cadmus.runtime.artifacts import check_free

    if kind is not None:
        check_free(folder, kind)
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    trial_file = nearest / f".writable-{os.getpid()}"
    try:
        trial_file.touch()
        trial_file.unlink()
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from None


@contextlib.contextmanager
def progress_bars(*, visible: bool = True) -> Iterator[Progress]:
    """Yield a progress callback that draws a bar per stage on standard error, or prints lines where that is not a
    terminal, but the log of a job; nothing where not `visible`."""
    if visible and not sys.stderr.isatty():
        yield _progress_lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:<26}", markup=False),
        BarColumn(bar_width=12),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[note]}", markup=False),
    )
    tasks: dict[str, TaskID] = {}
    bars = Bars(*columns, console=Console(stderr=True), disable=not visible)

    def progress(stage: str, fraction: float, note: str = "") -> None:
        if not tasks:
            bars.start()
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, total=1.0, note="")
        bars.update(tasks[stage], completed=fraction, note=note)

    try:
        yield progress
    finally:
        if tasks:
            bars.stop()


def _progress_lines(interval: float = 60.0) -> Progress:
    """Print a line when a stage ends, and meanwhile one in `interval` seconds."""
    start = last = time.monotonic()
    ended_stages: set[str] = set()

    def progress(stage: str, fraction: float, note: str = "") -> None:
        nonlocal last
        now = time.monotonic()
        if stage in ended_stages or (fraction < 1 and now - last < interval):
            return
        last = now
        if fraction >= 1:
            ended_stages.add(stage)
        say(f"{now - start:7.1f} s  {stage} {fraction:.0%}  {note}".rstrip())

    return progress


def write_page(make: Callable[[C, Path, Progress], Path], config: C, out: Path) -> None:
    """Have a study make its page in `out`, with progress bars, print where the page is, and link it in the index of
    reports around it, if there is one; where that cannot be written, a line says so, and the page stands.

    make: a study's `page.make`; config: its config.
    """
    from analyses.reporting import library
    from cadmus.runtime.artifacts import ArtifactError
    from cadmus.runtime.folder_lock import sole_writer

    check_writable(out, "report")
    with sole_writer(out), progress_bars() as progress:
        page = make(config, out, progress)
    print(page)
    try:
        library.refresh(out)
    except (OSError, ArtifactError) as error:
        say(f"the reports around {out} are not linked to it ({error}); cadmus-probe reports links them")


def print_rows(rows: Sequence[tuple[str, ...]]) -> None:
    """Print a table of text, the first row its head, with columns as wide as they need to be."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def check_table_path(path: Path | None) -> None:
    """Raise ValueError or OSError, before the work is done, where a table cannot be written to `path`, if there is
    one."""
    if path is None:
        return
    if path.suffix not in (".csv", ".parquet"):
        raise ValueError(f"{path} ends neither in .csv nor in .parquet; name one of these")
    check_file_path(path, "the table", f"table{path.suffix}")


def check_file_path(path: Path, what: str, example: str) -> None:
    """Raise ValueError or OSError, before the work is done, where `what` cannot be written to the file: it is a folder,
    or part of something that a manifest lists."""
    from cadmus.runtime.artifacts import owner

    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file for {what}, such as {path / example}")
    manifest = owner(path)
    if manifest is not None:
        raise ValueError(f"{path} is part of what {manifest} lists; name another file for {what}")
    check_writable(path.parent)


def save_table(table: pd.DataFrame, path: Path) -> Path:
    """Write a table as .csv or .parquet, by the path's ending, and return the path. Raises ValueError for another."""
    from cadmus.runtime.artifacts import write_bytes

    check_table_path(path)
    csv = path.suffix == ".csv"
    return write_bytes(path, table.to_csv(index=False).encode() if csv else table.to_parquet(index=False))
