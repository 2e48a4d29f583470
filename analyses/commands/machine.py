"""The command that runs programs: `vm`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from analyses.commands.terminal import paragraphs

machine = typer.Typer()


@machine.command(
    context_settings={"ignore_unknown_options": True},  # a program may begin with a minus
    help=paragraphs(
        """
        Run a program on the machine and explain it, token by token.

        Example: cadmus-probe vm '[3A4Bab+7=.]'

        Each row shows the stack after the token (top right), the registers in use, the fuel left, and why a NAN arose.
        A program holds 65 one-character instructions, which docs/machine.md lists; spaces between them do not count.
        One with quotes or backslashes is easier in a file.
        """
    ),
)
def vm(
    program: Annotated[
        str | None,
        typer.Argument(help="The program, with or without square brackets around it; - reads standard input."),
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the program from a file.")] = None,
) -> None:
    from cadmus.machine.vm import explain
    from cadmus.runtime.artifacts import read_text

    if program is not None and file is None:
        text = _standard_input() if program == "-" else program
    elif file is not None and program is None:
        text = read_text(file)
    else:
        raise ValueError("give one program: as an argument, as --file PATH, or - for standard input")
    text = "".join(text.split())
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    print(explain(text))


def _standard_input() -> str:
    """All of standard input; ValueError where there is none."""
    if sys.stdin is None:
        raise ValueError("standard input is closed; give the program as an argument, or as --file PATH")
    return sys.stdin.read()
