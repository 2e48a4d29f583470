"""Help as it is written: rich would take what stands in square brackets, programs for instance, for its markup, and
lose it, and what stands between two colons for the name of a picture."""

from __future__ import annotations

import copy
import re
from functools import partial
from typing import Any

from typer.core import TyperGroup

_NOTHING = "[none][/none]"  # markup without effect: `:x:`, which rich makes a cross of, is no longer one word


class PlainHelp(TyperGroup):
    """A group whose help, and that of all commands beneath it, shows every character as it is."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        _make_plain(self)


def _make_plain(command: Any) -> None:
    """Have a command, and all beneath it, escape its texts when it is asked for help, not before: rich takes as long to
    load as a program takes to run."""
    command.format_help = partial(_format_help, command)
    for member in getattr(command, "commands", {}).values():
        _make_plain(member)


def _format_help(command: Any, ctx: Any, formatter: Any) -> None:
    """The command's own help, of a copy whose texts are escaped."""
    escaped = _escaped(command)
    escaped.params = [_escaped(parameter) for parameter in command.params]
    if hasattr(command, "commands"):
        escaped.commands = {name: _escaped(member) for name, member in command.commands.items()}
    type(command).format_help(escaped, ctx, formatter)


def _escaped(described: Any) -> Any:
    """A copy of a command, or a parameter, whose texts are what rich makes the texts of."""
    from rich.markup import escape

    duplicate = copy.copy(described)
    for name in ("help", "short_help", "epilog"):
        text = getattr(described, name, None)
        if isinstance(text, str):
            setattr(duplicate, name, re.sub(r":(?=\S+:)", f":{_NOTHING}", escape(text)))
    return duplicate
