"""Options and arguments that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Run = Annotated[
    str, typer.Argument(help="A folder that cadmus-probe train wrote, or a model that ships with the package.")
]
Seed = Annotated[int, typer.Option(help="Seed of the programs measured on.", min=0)]
Device = Annotated[str, typer.Option(help="cpu, cuda or mps; auto takes a GPU where there is one.")]
Out = Annotated[Path, typer.Option(help="The folder for the page, its figures and tables.")]
Programs = Annotated[int, typer.Option(help="Programs probed, of skeletons that no training saw.", min=200)]
