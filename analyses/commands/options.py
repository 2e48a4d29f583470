"""Options and arguments that several commands have, and what holds of those of every command: a value is not empty."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

Run = Annotated[
    str, typer.Argument(help="A folder that cadmus-probe train wrote, or a model that ships with the package.")
]
Seed = Annotated[int, typer.Option(help="Seed of the programs measured on.", min=0)]
Device = Annotated[str, typer.Option(help="cpu, cuda or mps; auto takes a GPU where there is one.")]
Out = Annotated[Path, typer.Option(help="The folder for the page, its figures and tables.")]
Programs = Annotated[int, typer.Option(help="Programs probed, of skeletons that no training saw.", min=200)]


class NoEmptyValues(TyperGroup):
    """A group in which no option or argument takes an empty text, in all commands beneath it: `--out "$UNSET"` would
    fill the present folder, and `--start ""` be as good as none. An empty program is a program, and help
    says what an empty address is."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        _refuse_empty_values(self)


def _refuse_empty_values(command: Any) -> None:
    for parameter in command.params:
        if parameter.name not in ("program", "address"):
            parameter.process_value = _refusing_empty(parameter)
    for member in getattr(command, "commands", {}).values():
        _refuse_empty_values(member)


def _refusing_empty(parameter: Any) -> Any:
    """A parameter's `process_value` that raises BadParameter for an empty text, unless that is its default."""
    process = parameter.process_value

    def process_value(ctx: Any, value: Any) -> Any:
        is_given = ctx.get_parameter_source(parameter.name).name == "COMMANDLINE"
        if is_given and "" in (value if isinstance(value, list | tuple) else [value]):
            raise typer.BadParameter("it is empty; give a value, or leave it out")
        return process(ctx, value)

    return process_value
