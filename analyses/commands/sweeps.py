"""The command that trains many small models and says what their training distributions did: `sweep`."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analyses.commands.tables import Json, print_table
from analyses.commands.terminal import check_writable, paragraphs, progress_bars

if TYPE_CHECKING:
    from analyses.sweeps.cells import Run
    from analyses.sweeps.runs import Outcome
    from analyses.sweeps.sweep import Sweep

sweeps = typer.Typer()

_REFRESH = 2.0  # seconds between two looks at the journals
_STATUS = "status"


@sweeps.command(
    help=paragraphs(
        """
        Train a model for every combination of factor levels and every seed, and measure each.

        Example: cadmus-probe sweep diversity --plan, then cadmus-probe sweep diversity --out runs/sweeps/diversity;
        from another terminal cadmus-probe sweep status runs/sweeps/diversity

        A sweep (TOML, docs/sweeps.md) names a base mixture and recipe, factors with levels, seeds, responses, a pilot
        and hypotheses. Sweeps that ship: diversity, read-distance, compound-divergence, figure-1. Each run draws a
        corpus, trains, completes, is probed and patched; each stage is kept, so that the same command goes on where it
        was killed, or seeds were added. The pilot runs first and must reach its accuracy. A run that fails is recorded,
        the others go on, and the command ends with 1. Writes table.parquet, table.csv and runs.csv: one row per cell,
        seed and response.
        """
    )
)
def sweep(
    source: Annotated[list[str], typer.Argument(help="A TOML file, or a sweep that ships; or: status FOLDER.")],
    out: Annotated[Path | None, typer.Option(help="The folder.", show_default="runs/sweeps/NAME")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say cells, hours and bytes, and start nothing.")] = False,
    engine: Annotated[str, typer.Option(help="local (processes of this machine) or ray (a cluster).")] = "local",
    jobs: Annotated[int, typer.Option(help="Runs at once; 0: one per core, or per GPU.", min=0)] = 0,
    address: Annotated[str, typer.Option(help="Of a Ray cluster; empty: RAY_ADDRESS, else one of this machine.")] = "",
    device: Annotated[
        str, typer.Option(help="cpu, cuda or mps; auto is the CPU, where small models train fastest, one per core.")
    ] = "auto",
    retry: Annotated[bool, typer.Option("--retry", help="Begin runs again that failed.")] = False,
    as_json: Json = False,
) -> None:
    if source[0] == _STATUS:
        if len(source) != 2:
            raise ValueError(f"sweep status names one folder, {len(source) - 1} are given; say: sweep status FOLDER")
        _print_status(Path(source[1]), as_json)
        return
    if len(source) != 1:
        raise ValueError(f"one sweep is run at a time, {len(source)} are named: {' '.join(source)}")
    from analyses.sweeps.display import few_seeds
    from analyses.sweeps.engines import check_device, engine_of, n_jobs, place_of
    from analyses.sweeps.execution import run_sweep
    from analyses.sweeps.sweep_files import load

    request = load(source[0])
    folder = out or Path("runs") / "sweeps" / request.name
    at_work = engine_of(engine, jobs, address)
    check_device(device, engine)
    at_once = n_jobs(place_of(device), jobs)
    if few := few_seeds(request):
        _say(few)
    if plan:
        _print_plan(request, folder, at_once, place_of(device) if engine == "local" else "cpu", as_json)
        return
    check_writable(folder)
    with _watching(request, folder, at_once) as (progress, on_start, on_outcome):
        result = run_sweep(
            request, folder, at_work, device=device, pilot_runs=at_once, retry=retry,
            progress=progress, on_start=on_start, on_outcome=on_outcome,
        )  # fmt: skip
    for failure in result.failed:
        print(f"failed: {failure}", file=sys.stderr)
    print(folder / "table.csv")
    if result.failed:
        raise typer.Exit(1)


def _print_plan(request: Sweep, folder: Path, jobs: int, device: str, as_json: bool) -> None:
    from analyses.sweeps import folder as folders
    from analyses.sweeps.cells import cells_of, runs_of
    from analyses.sweeps.display import plan_rows
    from analyses.sweeps.plan import plan_of

    with progress_bars() as progress:
        begun = (folder / folders.SWEEP).is_file()
        cells = folders.begun_cells(folder, request) if begun else cells_of(request, progress)
        known = list(folders.statuses(folder, runs_of(request, cells)))
        result = plan_of(request, cells, known, jobs=jobs, device=device, progress=progress)
    print_table([("sweep", request.name), *plan_rows(result)], [{"sweep": request.name, **asdict(result)}], as_json)


def _print_status(folder: Path, as_json: bool) -> None:
    """Print how far a sweep is, from its folder alone."""
    from rich.console import Console

    from analyses.sweeps import folder as folders
    from analyses.sweeps.display import table_so_far, view

    if as_json:
        print_table([], table_so_far(folder).to_dict("records"), as_json)
        return
    request, runs = folders.stored_runs(folder)
    known = list(folders.statuses(folder, runs))
    at_once = sum(status.state == folders.RUNNING for _, status in known)
    Console().print(view(request, known, table_so_far(folder), at_once))


Watch = tuple[Any, Callable[[list["Run"]], None], Callable[["Run", "Outcome"], None]]


@contextlib.contextmanager
def _watching(request: Sweep, folder: Path, jobs: int) -> Iterator[Watch]:
    """Yield what `run_sweep` tells how far it is: a live view on a terminal, else a line for every run that ends."""
    if not sys.stderr.isatty():
        yield from _lines(request, folder, jobs)
        return
    from rich.console import Console
    from rich.live import Live

    from analyses.sweeps.display import table_so_far, view
    from analyses.sweeps.folder import statuses

    runs: list[Run] = []
    with progress_bars() as progress, contextlib.ExitStack() as stack:

        def on_start(all_runs: list[Run]) -> None:
            runs.extend(all_runs)
            live = Live(
                get_renderable=lambda: view(request, list(statuses(folder, runs)), table_so_far(folder), jobs),
                console=Console(stderr=True),
                refresh_per_second=1 / _REFRESH,
            )
            stack.enter_context(live)

        yield progress, on_start, lambda run, outcome: None


def _lines(request: Sweep, folder: Path, jobs: int) -> Iterator[Watch]:
    """For the log of a job: a line when a run has ended."""
    from analyses.sweeps.display import duration, time_left
    from analyses.sweeps.folder import DONE, FAILED, statuses

    runs: list[Run] = []

    def on_start(all_runs: list[Run]) -> None:
        runs.extend(all_runs)
        _say(f"{request.name}: {len(runs)} runs, {jobs} at once, in {folder}")

    def on_outcome(run: Run, outcome: Outcome) -> None:
        known = list(statuses(folder, runs))
        n = sum(status.state in (DONE, FAILED) for _, status in known)
        word = f"failed: {outcome.failure}" if outcome.failure else "done"
        _say(f"{n} of {len(runs)}  {run.label}  {word}  (time left {duration(time_left(known, jobs))})")

    with progress_bars() as progress:
        yield progress, on_start, on_outcome


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
