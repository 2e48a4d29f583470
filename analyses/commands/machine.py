"""The command that runs programs: `vm`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analyses.commands.tables import Json, to_json
from analyses.commands.terminal import paragraphs

if TYPE_CHECKING:
    from cadmus.machine.vm import Step, Value

machine = typer.Typer()


@machine.command(
    context_settings={"ignore_unknown_options": True},  # a program may begin with a minus
    help=paragraphs(
        """
        Run a program on the machine and explain it, token by token.

        Example: cadmus-probe vm '[3A4Bab+7=.]'

        Each row shows the stack after the token (top right), the registers in use, the fuel left, and why a NAN arose.
        A program holds 65 one-character instructions, which docs/machine.md lists; spaces between them do not count.
        One with quotes or backslashes is easier in a file. With --json a row also says whether all is true after it.
        """
    ),
)
def vm(
    program: Annotated[
        str | None,
        typer.Argument(help="The program, with or without square brackets around it; - reads standard input."),
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the program from a file.")] = None,
    as_json: Json = False,
) -> None:
    from cadmus.machine.vm import explain, steps
    from cadmus.runtime.artifacts import read_text

    if program is not None and file is None:
        text = _standard_input() if program == "-" else program
    elif file is not None and program is None:
        text = read_text(file)
    else:
        raise ValueError("give one program: as an argument, as --file PATH, or - for standard input")
    text = "".join(text.split())
    text = text.removeprefix("[").removesuffix("]")  # one alone, too: what is given may be a prefix
    print(to_json(map(_record, steps(text))) if as_json else explain(text))


def _record(step: Step) -> dict[str, Any]:
    """A row of JSON: what the token did, and whether all that is on the stack after it is true."""
    from cadmus.machine.vm import all_true

    return {
        "position": step.position,
        "token": step.token,
        "instruction": step.instruction,
        "fuel": step.state.fuel,
        "stack": [_json_value(value) for value in step.state.stack],
        "registers": {name: _json_value(value) for name, value in step.state.registers.items()},
        "why_nan": step.why_nan,
        "all_true": all_true(step.state.stack),
    }


def _json_value(value: Value) -> Any:
    """A number as a number, one with a decoration as text, a sequence as a list, NAN as None."""
    from cadmus.machine.vm import Int, Seq

    if isinstance(value, Seq):
        return [_json_value(item) for item in value]
    if isinstance(value, Int):
        return str(value) if value.tag else value.v
    return None


def _standard_input() -> str:
    """All of standard input; ValueError where there is none."""
    if sys.stdin is None:
        raise ValueError("standard input is closed; give the program as an argument, or as --file PATH")
    return sys.stdin.read()
