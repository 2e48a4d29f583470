"""The numbers that a page of Markdown states as results, and the committed tables that must hold them.

Results are decimals, percentages and factors (`12 x`), each with its interval. Those in code, links, versions and
between `<!-- table: NAME -->` and `<!-- end of table -->`, which are made of tables, are no matter of this.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

_LEFT_OUT = re.compile(
    r"`[^`]*`|\]\([^)]*\)|https?://\S+|(?:arXiv:? ?)?\d{4}\.\d{4,5}|<!--.*?-->"  # code, links, papers, remarks
    r"|(?<![\d.])\d+(?:\.\d+){2,}|(?:Python|PyTorch|transformer-lens|torch)\s+\d+\.\d+|[=<>]=?\d[\d.]*"  # versions
)
_RESULT = re.compile(
    r"(?<![\w.,\-\[])(?P<value>[-−]?\d*\.\d+|[-−]?\d+(?= ?%)|\d+(?= x\b))(?P<unit> ?%| x\b)?(?![\w\]]|\.\d|,\d{3})"
    r"(?:\s+\[(?P<low>[-−]?\d*\.?\d+), (?P<high>[-−]?\d*\.?\d+)\])?"
)


@dataclass(frozen=True)
class Result:
    """A number that a page states."""

    section: str
    """The heading of the second level above it; empty before the first."""

    line: int
    """Its line in the page, from 1."""

    paragraph: int
    """The number of its paragraph, list item or row of a table."""

    texts: tuple[str, ...]
    """The number as it is printed; where it has an interval, its two ends behind it."""

    unit: str
    """`%`, `x` or nothing."""

    def __str__(self) -> str:
        ends = f" [{', '.join(self.texts[1:])}]" if self.texts[1:] else ""
        return f"{self.texts[0]}{ends}{' ' + self.unit if self.unit else ''}"


def results(text: str) -> Iterator[Result]:
    """The results that a page states."""
    section, in_code, in_table, paragraph = "", False, False, 0
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        fence = line.startswith("```")
        in_code = in_code != fence
        in_table = (in_table or "<!-- table:" in line) and "<!-- end of table" not in line
        if in_code or fence or in_table or line.startswith("    "):
            continue
        if line.startswith("## "):
            section = line[3:].strip()
        paragraph += not line.strip() or line.startswith(("- ", "|", "#"))
        following = lines[number] if number < len(lines) else ""
        for match in _matches(line, "" if following.startswith(("|", "#", "```", "- ")) else following):
            ends = (match["low"], match["high"]) if match["low"] else ()
            texts = tuple(part.replace("−", "-") for part in (match["value"], *ends))
            yield Result(section, number, paragraph, texts, (match["unit"] or "").strip())


def _matches(line: str, following: str) -> Iterator[re.Match]:
    """The results that begin in a line; an interval may lie in the next."""
    prose = _LEFT_OUT.sub("", line)
    for match in _RESULT.finditer(f"{prose} {_LEFT_OUT.sub('', following).strip()}"):
        if match.start() < len(prose):
            yield match


# --- tables ----------------------------------------------------------------------------------------------------------

_COUNTS = {"x", "y", "n", "k", "seed", "step", "layer", "offset", "position", "clusters", "test_programs", "programs"}


class Tables:
    """The numbers in some .csv files, row by row, and others; counts and seeds are left out."""

    def __init__(self, paths: Iterable[Path], others: Iterable[float] = ()) -> None:
        self.rows = [row for path in paths for row in _rows(path)] + [np.array([other]) for other in others]
        self.numbers = np.unique(np.concatenate([np.zeros(0), *self.rows]))

    def lacking(self, stated: Iterable[Result]) -> list[Result]:
        """The results that no table holds, as printed.

        One with an interval must stand in one row with its ends, or with the signs of all three changed ("later by").
        One without is looked for everywhere: rounded to two decimals, that catches little but slips of the pen.
        """
        return [result for result in stated if not self._holds(result)]

    def _holds(self, result: Result) -> bool:
        scales = (1.0, 100.0) if result.unit == "%" else (1.0,)
        if not any(is_printed(np.abs(self.numbers), result.texts[0].lstrip("-"), scale).any() for scale in scales):
            return False
        return len(result.texts) == 1 or any(
            all(is_printed(sign * row, text, scale).any() for text in result.texts)
            for scale in scales
            for sign in (1, -1)
            for row in self.rows
        )


def _rows(path: Path) -> list[np.ndarray]:
    table = pd.read_csv(path, low_memory=False).select_dtypes("number").astype(float)
    table = table.drop(columns=[name for name in table if name in _COUNTS])
    return [row[np.isfinite(row)] for row in table.to_numpy()]


def is_printed(values: np.ndarray, text: str, scale: float = 1.0) -> np.ndarray:
    """Which of the values are printed so, rounded to as many decimals, a half either way."""
    decimals = len(text.partition(".")[2])
    return np.abs(values * scale - float(text)) <= 0.5 * 10.0**-decimals * (1 + 1e-9)
