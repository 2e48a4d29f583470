"""What the rows of the table of scores claim, in words: the sentences of a page and the marks of its figures come from
the one column `claimed`.

*Read* is beyond every control, *readable* beyond the untrained model and the controls of the probe's own class, each
with bounds that hold in the whole map and controls that no longer rise (`probes.measurement.scores`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import pandas as pd

from analyses.reporting.sites import is_residual
from probes.data.activations import layer_of
from probes.measurement.plan import EMBEDDING
from probes.measurement.scores import MARGIN

WORDS = {"read": "read (beyond every control)", "readable": "readable (beyond the controls of the probe's own class)"}
_MARKS = {
    "read": "a disk marks a cell that is claimed as read",
    "readable": "a ring marks a cell that is claimed as readable",
}


def with_claims(rows: pd.DataFrame, word: str = "") -> pd.DataFrame:
    """The rows that claim something, or one word of `WORDS`."""
    return rows[rows.claimed == word] if word else rows[rows.claimed != ""]


def legend(rows: pd.DataFrame) -> str:
    """What the marks in a figure of these rows mean, as the end of a sentence: of those that it has; empty for none."""
    marks = [text for word, text in _MARKS.items() if len(with_claims(rows, word))]
    return f"; {' and '.join(marks)}, surely by more than {MARGIN}" if marks else ""


def described(rows: pd.DataFrame, what: str, along: str) -> str:
    """What is seen in a map of scores beyond their controls: how many cells, the greatest, and how many are claimed."""
    beyond = rows[rows.beyond.notna()]
    if beyond.empty:
        return f"A map of {what} by {along}, without a score."
    best = beyond.loc[beyond.beyond.idxmax()]
    return (
        f"A map of {len(rows):,} cells, {what} by {along}: scores minus their best controls lie between "
        f"{beyond.beyond.min():.2f} and {best.beyond:.2f}, the greatest of {best.variable}"
        f"{of_group(best.by, best.group).rstrip(',')}; {len(with_claims(rows)):,} cells are claimed."
    )


def sentence(rows: pd.DataFrame) -> str:
    """Everything that the rows claim, by word, variable, group and site."""
    parts = [f"{words}: {'; '.join(_cells(with_claims(rows, word)))}" for word, words in WORDS.items()]
    parts = [part for part in parts if not part.endswith(": ")]
    if not parts:
        return f"Nothing is claimed of these {len(rows):,} cells."
    count = len(with_claims(rows))
    return f"Something is claimed of {count:,} of these {len(rows):,} cells. {'. '.join(map(_capital, parts))}."


def places(sites: Sequence[str]) -> str:
    """Where several sites are, in the order of the layers: `after layers 2 to 4 and 6`."""
    if not all(map(is_residual, sites)):
        return f"at {', '.join(sites)}"
    layers = sorted(layer_of(site) for site in sites if site != EMBEDDING)
    runs = [[layer for _, layer in run] for _, run in groupby(enumerate(layers), lambda pair: pair[1] - pair[0])]
    spans = [str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs]
    after = f"after layer{'s' * (len(layers) > 1)} {' and '.join(spans)}" if layers else ""
    return " and ".join(filter(None, ["in the embedding" if EMBEDDING in sites else "", after]))


def _cells(rows: pd.DataFrame) -> list[str]:
    """`depth, of family stack, after layers 2 to 4`, for each variable and group."""
    keys = ["variable", "offset", "by", "group"]
    return [
        f"{variable}{_ahead(offset)}{of_group(by, group)} {places(list(part.site))}"
        for (variable, offset, by, group), part in rows.groupby(keys, sort=False)
    ]


def of_group(by: str, group: str) -> str:
    """Which tokens, in words; nothing for all."""
    return "" if by == "all" else f", {group}," if by == "role" else f", {by} {group},"


def _ahead(offset: int) -> str:
    return f" {abs(offset)} token{'s' * (abs(offset) > 1)} {'ahead' if offset > 0 else 'back'}" if offset else ""


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
