"""A number in a sentence leads to the row that it was taken from."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from analyses.reporting.grids import Grid
from analyses.reporting.links import Book

ROLES = pd.DataFrame(
    {
        "variable": ["reg.a.value", "reg.a.value", "reg.b.value", "depth"],
        "role": ["stored", "loaded", "loaded", "all"],
        "score": ["0.98 [0.96, 0.99]", "0.98 [0.96, 0.99]", "0.98 [0.96, 0.99]", "-0.10 [-0.20, 0.00]"],
        "control": ["n-gram 0.40", "input 0.43", "input 0.46", "0.50"],
    }
)
FAMILIES = pd.DataFrame({"family": ["compare"], "accuracy": ["0.98 [0.96, 0.99]"]})
COMPARE = "completion--compare"
BOOK = Book.of([Grid.of("roles", ROLES), Grid.of("completion", FAMILIES)])


def targets(sentence: str, section: str = "") -> list[str]:
    return re.findall(r'href="#([^"]+)"', BOOK.linked(sentence, section))


@pytest.mark.parametrize(
    ("sentence", "rows"),
    [
        ("reg.b.value, loaded, 0.98 [0.96, 0.99]", ["roles--reg-b-value-loaded"]),
        ("reg.a.value where stored (0.98 [0.96, 0.99])", ["roles--reg-a-value-stored"]),
        ("compare 0.98 [0.96, 0.99], reg.a.value loaded 0.98 [0.96, 0.99]", [COMPARE, "roles--reg-a-value-loaded"]),
        ("anything has -0.10 [-0.20, 0.00]", ["roles--depth-all"]),
        ("nobody says whose 0.98 [0.96, 0.99] it is", []),
        ("in no table: 0.11 [0.10, 0.12]", []),
        ("0.98 without an interval", []),
    ],
)
def test_the_row_is_the_one_whose_words_the_sentence_says(sentence: str, rows: list[str]) -> None:
    assert targets(sentence) == rows


def test_rows_alike_are_those_of_the_section_itself() -> None:
    assert targets("loaded: 0.98 [0.96, 0.99]") == ["roles--reg-a-value-loaded"]
    both = Book.of([Grid.of("one", FAMILIES), Grid.of("two", FAMILIES)])
    assert 'href="#two--compare"' in both.linked("compare 0.98 [0.96, 0.99]", "two")
    assert 'href="#one--compare"' in both.linked("compare 0.98 [0.96, 0.99]", "three")


def test_what_a_number_is_held_against_is_part_of_the_link_where_the_row_has_it() -> None:
    assert ">0.98 [0.96, 0.99] against 0.43</a>" in BOOK.linked("reg.a.value, loaded, 0.98 [0.96, 0.99] against 0.43.")
    assert ">0.98 [0.96, 0.99]</a> against 0.11" in BOOK.linked("reg.a.value, loaded, 0.98 [0.96, 0.99] against 0.11.")
    assert ">0.98 [0.96, 0.99]</a> against 0.43 [" in BOOK.linked("loaded 0.98 [0.96, 0.99] against 0.43 [0.40, 0.50].")


def test_html_in_a_sentence_is_text() -> None:
    html = BOOK.linked("<b>depth</b> `a<b` -0.10 [-0.20, 0.00]")
    assert html.startswith("&lt;b&gt;depth&lt;/b&gt; <code>a&lt;b</code> <a ")


def test_rows_that_cells_do_not_tell_apart_are_numbered() -> None:
    grid = Grid.of("same", pd.DataFrame({"a": ["x", "x"], "b": ["1", "1"]}))
    assert [row.anchor for row in grid.rows] == ["same--1", "same--2"]
    assert Grid.of("empty", pd.DataFrame({"a": []})).rows == ()
