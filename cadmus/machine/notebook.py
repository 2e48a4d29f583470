"""How a run looks in a notebook: an HTML table with a row per token."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from cadmus.machine.values import NAN

_CELL = "text-align: left; font-family: monospace; padding: 0 0.8em"


def trace_table(text: str, states: Sequence[Any], is_true: bool) -> str:
    """The HTML table of a run: per token of `text` its position, the stack after it (top right), the registers in use
    and the fuel. `states` holds a `vm.State` per token."""
    rows = [
        (
            str(position),
            token,
            " ".join(map(str, state.stack)) or "-",
            " ".join(f"{name}={value}" for name, value in state.registers.items() if value is not NAN),
            str(state.fuel),
        )
        for position, (token, state) in enumerate(zip(text, states, strict=True))
    ]
    head = _row("th", ("", "token", "stack", "registers", "fuel"))
    body = "".join(_row("td", row) for row in rows)
    verdict = "a true-program" if is_true else "a false-program"
    return f"<table><caption>{escape(f'[{text}]')}: {verdict}</caption>{head}{body}</table>"


def _row(kind: str, cells: Sequence[str]) -> str:
    return "<tr>" + "".join(f'<{kind} style="{_CELL}">{escape(cell)}</{kind}>' for cell in cells) + "</tr>"
