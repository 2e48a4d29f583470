"""Every command that prints a table prints it as JSON too, by one mechanism, and nothing else on standard output."""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import typer

from analyses.cli import app, main
from analyses.commands.tables import to_json
from cadmus.machine import vm

COMMANDS = Path(__file__).parents[3] / "analyses" / "commands"


def commands(group: Any = None, words: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Every command by the words that call it."""
    group = typer.main.get_command(app) if group is None else group
    if not hasattr(group, "commands"):
        return {words: group}
    return {
        key: leaf for name, member in group.commands.items() for key, leaf in commands(member, (*words, name)).items()
    }


def calls(function: Callable[..., Any]) -> set[str]:
    """The names that a function calls, and those that functions of its module call in turn."""
    module = sys.modules[function.__module__]
    bodies = {
        node.name: node for node in ast.parse(inspect.getsource(module)).body if isinstance(node, ast.FunctionDef)
    }
    found: set[str] = set()
    left = [function.__name__]
    while left:
        for node in ast.walk(bodies[left.pop()]):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id not in found:
                found.add(node.func.id)
                left += [node.func.id] if node.func.id in bodies else []
    return found


LEAVES = commands()


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_a_command_prints_a_table_as_json_too_or_none(words: tuple[str, ...]) -> None:
    command = LEAVES[words]
    prints = {"print_table", "explain"} & calls(inspect.unwrap(command.callback))
    options = {option for parameter in command.params for option in parameter.opts}
    assert ("--json" in options) == bool(prints), words


def test_there_is_one_way_to_print_a_table() -> None:
    users = [path.name for path in COMMANDS.glob("*.py") if "print_rows" in path.read_text(encoding="utf-8")]
    assert sorted(users) == ["tables.py", "terminal.py"]


QUICK: list[tuple[str, set[str]]] = [
    ("data knobs register", {"family", "knob", "default", "effect"}),
    ("data sample first -n 2 --split test", {"family", "program", "decisions"}),
    ("vm [34+7=.]", {"position", "token", "instruction", "fuel", "stack", "registers", "why_nan", "all_true"}),
    ("doctor", {"subject", "value", "note"}),
]
SLOW: list[tuple[str, set[str]]] = [
    ("eval cadmus-micro --programs 1 --out table.csv", {"family", "split", "n", "accuracy", "low", "high"}),
    ("data build first --programs 200 --workers 1 --out corpus", {"family", "programs", "draws_per_program"}),
    ("data compare first first --family compare --programs 1000", {"family", "property", "a", "b", "apart"}),
    ("selftest", {"check", "expected", "found", "passed"}),
    (
        "train --recipe first --steps 2 --layers 1 --width 32 --out model",
        {"family", "split", "accuracy", "low", "high", "true_rate"},
    ),
]


@pytest.mark.parametrize(
    ("line", "keys"),
    [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)],
    ids=[line for line, _ in QUICK + SLOW],
)
def test_standard_output_is_json_alone(
    line: str,
    keys: set[str],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*line.split(), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) > 1
    assert all(keys <= set(row) for row in rows)


def test_every_command_with_the_option_is_run() -> None:
    run = {line.split()[0] if line.split()[0] != "data" else " ".join(line.split()[:2]) for line, _ in QUICK + SLOW}
    with_json = {
        " ".join(words)
        for words, leaf in LEAVES.items()
        if any("--json" in parameter.opts for parameter in leaf.params)
    }
    elsewhere = {"sweep", "prompts score"}  # tested where they are
    assert with_json - elsewhere == run


def test_a_program_row_by_row(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vm", "3A4'2(1,2#5/.", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    run = vm.run("3A4'2(1,2#5/.")
    assert len(rows) == len(run.states)
    assert [row["fuel"] for row in rows] == [state.fuel for state in run.states]
    assert "".join(row["token"] for row in rows) == run.text
    assert rows[0]["stack"] == [3]
    assert rows[1]["registers"] == {"a": 3, "b": None, "c": None, "d": None}
    assert rows[-1]["all_true"] == run.is_true


def test_values_are_plain() -> None:
    record = {
        "nan": float("nan"),
        "inf": np.float64("inf"),
        "number": np.int32(3),
        "share": np.float32(0.5),
        "flag": np.bool_(True),
        "array": np.array([1.5, np.nan]),
        "missing": pd.NA,
        "time": pd.NaT,
        "text": "ä[b]\n",
        "nested": {"tuple": (1, None), 2: Path("a")},
    }
    assert json.loads(to_json([record])) == [
        {
            "nan": None,
            "inf": None,
            "number": 3,
            "share": 0.5,
            "flag": True,
            "array": [1.5, None],
            "missing": None,
            "time": None,
            "text": "ä[b]\n",
            "nested": {"tuple": [1, None], "2": "a"},
        }
    ]
    assert to_json([]) == "[]"
    assert len(to_json([record] * 3).splitlines()) == 3
