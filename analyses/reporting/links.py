"""Numbers in sentences become links to the table rows that hold them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from analyses.reporting.grids import Grid, Row

NUMBER = re.compile(r"(-?\d+\.\d+ \[-?\d+\.\d+, -?\d+\.\d+\])(?:,? against (-?\d\.\d\d)(?![\d\[]| \[))?")
"""A number with its interval, and what it is held against, where that has none."""
_CODE = re.compile(r"`([^`]+)`")
_WORD = re.compile(r"[a-z0-9_.]+")
_NEAR = 3  # times as much as elsewhere in the sentence a word counts in front of the number


@dataclass(frozen=True)
class Book:
    """Where numbers with an interval stand in the tables of a page."""

    places: dict[str, list[tuple[str, Row]]]
    """`0.93 [0.91, 0.95]` -> the section and the row of each place where it stands."""

    @classmethod
    def of(cls, grids: Sequence[Grid]) -> Book:
        """The numbers of these tables."""
        places: dict[str, list[tuple[str, Row]]] = defaultdict(list)
        for grid in grids:
            for row in grid.rows:
                for text in dict.fromkeys(match[1] for cell in row.cells for match in NUMBER.finditer(cell)):
                    places[text].append((grid.section, row))
        return cls(dict(places))

    def linked(self, text: str, section: str = "") -> Markup:
        """A sentence as HTML: its numbers linked to their rows, what stands in backticks as code.

        Of several rows with the same number the one is meant whose words the sentence says, most of all just in front
        of the number; of several alike the one in `section`, or else the first. A number in no table stays text.
        """
        parts, end = [], 0
        for match in NUMBER.finditer(text):
            row = self.row(match[1], text[end : match.start()], text, section)
            if row is None:
                continue
            against = match[2] is None or any(match[2] in cell for cell in row.cells)
            stop = match.end() if against else match.end(1)
            parts += [_html(text[end : match.start()]), _anchor(row, text[match.start() : stop])]
            end = stop
        return Markup("").join([*parts, _html(text[end:])])

    def row(self, number: str, before: str, sentence: str, section: str) -> Row | None:
        """The row that a number is of; None where no table has it, or several do and no word says which."""
        candidates = self.places.get(number, [])
        if len(candidates) < 2:
            return candidates[0][1] if candidates else None
        near, far = (set(_WORD.findall(part.lower())) for part in (before, sentence))
        scores = [_NEAR * len(words & near) + len(words & far) for words in (_words(row) for _, row in candidates)]
        best = [candidate for candidate, score in zip(candidates, scores, strict=True) if score == max(scores)]
        if not max(scores):
            return None
        return next((row for name, row in best if name == section), best[0][1])


def _words(row: Row) -> set[str]:
    """The words of a row's cells that are no numbers."""
    words = {word for cell in row.cells for word in _WORD.findall(cell.lower())}
    return {word for word in words if not re.fullmatch(r"[\d.]+", word)}


def _anchor(row: Row, text: str) -> Markup:
    return Markup('<a class="number" href="#{}">{}</a>').format(row.anchor, text)


def _html(text: str) -> Markup:
    """Plain text as HTML, what stands in backticks as code."""
    return Markup(_CODE.sub(lambda code: f"<code>{code[1]}</code>", str(escape(text))))
