"""The command that makes a page to look into programs: `explore`."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from analyses.commands.options import Seed
from analyses.commands.terminal import check_file_path, paragraphs, progress_bars
from cadmus import DEFAULT_MODEL

explorer = typer.Typer()


@explorer.command(
    context_settings={"ignore_unknown_options": True},  # a program may begin with a minus
    help=paragraphs(
        """
        Make one HTML file in which a program is looked into, live: machine and model run in the page, offline (half a
        minute on two cores).

        Example: cadmus-probe explore '3A4Bab+7=' --open

        Under each token stand the machine's state, what probes read of it at every layer, and what the model expects
        next; over them the data flow and the attention of heads. Click a value, set another, and see whether the model
        answers as the machine does then. The address of a view is a link to it. docs/explorer.md says more.
        """
    ),
)
def explore(
    program: Annotated[
        str, typer.Argument(help="What the page opens with, with or without square brackets around it.")
    ] = "",
    run: Annotated[
        str,
        typer.Option(help="A folder that cadmus-probe train wrote, or a model that ships: up to 20 M parameters."),
    ] = DEFAULT_MODEL,
    out: Annotated[Path, typer.Option(help="The file; it holds all that it needs.")] = Path("explorer.html"),
    open_page: Annotated[bool, typer.Option("--open", help="Open it in the browser when it is made.")] = False,
    seed: Seed = 0,
) -> None:
    from analyses.explorer.page_file import write

    check_file_path(out, "the page", "explorer.html")
    with progress_bars() as progress:
        page = write(run, program, out, seed=seed, progress=progress)
    print(page)
    if open_page and not webbrowser.open(page.absolute().as_uri()):
        raise ValueError(f"no browser could be started here; open {page} by hand")
