"""Names say what a thing is: a participle is an adjective in a name (`kept_rows`), never the whole of one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("cadmus", "probes", "analyses")
PARTICIPLES = {"asked", "chosen", "fine", "found", "held", "kept", "made", "said", "shown", "told", "wanted"}


def names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every name that the code gives, with its line: variables, fields, parameters, functions and classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.ImportFrom | ast.Import):
            yield from ((alias.asname, node.lineno) for alias in node.names if alias.asname)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_participle_is_a_whole_name(package: str) -> None:
    offenders = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for name, line in names(ast.parse(path.read_text(encoding="utf-8")))
        if name.strip("_") in PARTICIPLES
    ]
    assert not offenders, "say what the thing is: " + ", ".join(offenders)


def test_names_are_seen_wherever_they_are_given() -> None:
    code = "def found(kept, *, said=1):\n    made: int = 2\n    self.told = [shown for shown in kept]\n"
    assert {name for name, _ in names(ast.parse(code))} == {"found", "kept", "said", "made", "told", "shown"}
