"""Objects of a user's own from a file: found, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from probes.data.loading import load, load_variable

FILE = """
from neighbour import DEPTH

def total(traces):
    return traces.depth + DEPTH, traces.depth > 0

number = 3
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "neighbour.py").write_text("DEPTH = 1\n")
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "raises.py").write_text("raise RuntimeError('no\\nluck')\n")
    return str(tmp_path)


def test_a_function_is_found(mine: str) -> None:
    assert load_variable(f"{mine}/mine.py:total").__name__ == "total"
    assert load(f"{mine}/mine.py:number", "--variable", "") == 3


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("mine.py", r"--variable '.*' must be FILE\.py:NAME, such as my_variables\.py:total"),
        ("mine.py:", r"must be FILE\.py:NAME"),
        ("none.py:total", r"none\.py does not exist; name the Python file that holds total"),
        ("mine.py:sum", r"mine\.py has no 'sum'; it has DEPTH, total, number"),
        ("mine.py:number", r"mine\.py:number has the type int; a variable is a function of the traces"),
        ("raises.py:total", r"raises\.py:total raised RuntimeError: no luck"),
    ],
)
def test_what_is_no_variable_is_refused_in_one_line(mine: str, source: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        load_variable(f"{mine}/{source}")
    assert "\n" not in str(caught.value)
