"""Tables of a page as rows of text: each row with an anchor of its own, each column shown at once or on demand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from markupsafe import Markup, escape

LONG = 32  # letters of a cell from which on its text is wrapped
_MAX_KEYS = 5  # leading cells that may name a row
_INTERVAL = re.compile(r"\[-?\d[^\]]*\]")


@dataclass(frozen=True)
class Row:
    """A row of a table."""

    anchor: str
    """Its id on the page: the section's name and the row's leading cells."""
    cells: tuple[str, ...]
    """Its text, column by column; empty where a value is missing."""


@dataclass(frozen=True)
class Grid:
    """A table as a page shows it."""

    section: str
    """The section whose table it is."""
    columns: tuple[str, ...]
    """The names of all columns."""
    folded: frozenset[str]
    """The columns that are shown on demand only."""
    rows: tuple[Row, ...]
    """The rows, in the table's order."""

    @classmethod
    def of(cls, section: str, table: pd.DataFrame, shown_columns: Sequence[str] = ()) -> Grid:
        """The table of a section. Raises ValueError where a column that is to be shown does not exist."""
        columns = tuple(map(str, table.columns))
        unknown = [name for name in shown_columns if name not in columns]
        if unknown:
            raise ValueError(f"table {section} has no column {unknown[0]!r}; it has {', '.join(columns)}")
        cells = text_cells(table)
        anchors = _anchors(section, cells)
        rows = tuple(Row(anchor, tuple(row)) for anchor, row in zip(anchors, cells, strict=True))
        folded = frozenset(columns) - frozenset(shown_columns) if shown_columns else frozenset()
        return cls(section, columns, folded, rows)

    @property
    def is_wide(self) -> bool:
        """Whether the table is likely to need more room than a page of text has, all columns shown."""
        return len(self.columns) > 8


def text_cells(table: pd.DataFrame) -> list[list[str]]:
    """The rows of a table as text, empty where a value is missing."""
    return [["" if pd.isna(value) else str(value) for value in row] for row in table.itertuples(index=False)]


def cell_html(cell: str) -> Markup:
    """The text of a cell, intervals set back behind their scores."""
    return Markup(_INTERVAL.sub(lambda interval: f"<i>{interval[0]}</i>", str(escape(cell))))


def _anchors(section: str, cells: Sequence[Sequence[str]]) -> list[str]:
    """An id for each row: the fewest leading cells that tell all rows apart, and a number where none do."""
    width = min(_MAX_KEYS, len(cells[0])) if cells else 0
    for keys in range(1, width + 1):
        anchors = [f"{section}--{_slug(row[:keys])}" for row in cells]
        if len(set(anchors)) == len(anchors):
            return anchors
    return [f"{section}--{k}" for k in range(1, len(cells) + 1)]


def _slug(cells: Sequence[str]) -> str:
    """Letters and digits of some cells, as an id may have them."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(cells).lower()).strip("-")
