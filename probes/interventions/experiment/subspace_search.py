"""The search for a variable's subspace in the cell where its exchange does most, on pairs that had no part in choosing
it.

The cell is chosen on an experiment's pairs; the search learns, chooses its rank and is scored on new pairs that share
no skeleton with those. Each pair gives two exchanges: from its source, which must change the answer, and from its
same-value source, which must not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cadmus.machine.tokens import PAD
from cadmus.models import backends
from cadmus.programs.mixture import Mixture
from cadmus.programs.skeletons import skeleton
from cadmus.runtime.progress import Progress, no_progress
from cadmus.runtime.seeds import generator
from probes.interventions.counterfactuals import drawing, judging
from probes.interventions.counterfactuals.pairs import Pairs
from probes.interventions.counterfactuals.variables import PairVariable
from probes.interventions.editing.locations import stream_site
from probes.interventions.effects.outcomes import SPANS, THRESHOLD
from probes.interventions.experiment.conditions import own_completions
from probes.interventions.experiment.tables import moves_input
from probes.interventions.subspaces.controls import compare
from probes.interventions.subspaces.interchanges import Interchanges, from_pairs, split
from probes.interventions.subspaces.subspace import SearchConfig

CONFIG = SearchConfig(steps=100, batch_size=64)
RANKS = (1, 4, 16)
PAIRS = 400
MIN_COUNTING = 60  # new pairs that count, below which nothing is searched for
_STAGE = "subspaces"  # of the progress


def best_cell(words: pd.DataFrame) -> tuple[int, str] | None:
    """The layer and role, edited alone, at which d is largest: of used cells where there are some, and else of those in
    which it is above 0.05; None where it is so nowhere. What moves the input counts for nothing.

    words: of `verdicts.verdicts`, with `has_controls`.
    """
    is_open = words["claimed"].astype(bool) & words["has_controls"].astype(bool) & (words["d"] > THRESHOLD)
    cells = words[is_open & (words["span"] == SPANS[0]) & (words["role"] != "overwritten") & ~moves_input(words)]
    used = cells[cells["verdict"] == "used"]
    cells = used if len(used) else cells
    if cells.empty:
        return None
    row = cells.loc[cells["d"].idxmax()]
    return int(row["layer"]), str(row["role"])


def subspaces(
    model: Any,
    twin: Any,
    variable: PairVariable,
    mixture: Mixture,
    cell: tuple[int, str] | None,
    seen: Pairs,
    *,
    pairs: int = PAIRS,
    ranks: Sequence[int] = RANKS,
    config: SearchConfig = CONFIG,
    seed: int = 0,
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """The subspace that holds the variable in a cell, beside its controls: `subspaces.controls.compare`'s table.

    A row per method, with `layer`, `role` and `note`. Where nothing can be searched for there is one row with the
    reason: no cell, another backend than our own, too few new pairs that count.

    Args:
        model: whose answers are asked for.
        twin: the untrained model, which is searched with the same budget.
        variable: of the pairs.
        mixture: whose programs are drawn.
        cell: of `best_cell`.
        seen: the pairs that the cell was chosen on; none of their skeletons is in the new ones.
        pairs: that are drawn, from which those are left out.
        ranks: that are tried.
        config: of the search.
        seed: of the pairs and of the split.
        progress: follows the stage "subspaces".
    """
    progress(_STAGE, 0.0, "")
    if cell is None:
        return _nothing(cell, "no exchange at a single role moves answers beyond its controls")
    if backends.backend(model) != "cadmus":
        return _nothing(cell, "subspaces are searched for in models of our own only")
    try:
        drawn = _others(seen, drawing.draw(variable, mixture, pairs, _seed(seed), kinds=["discriminating"]))
        parts = _parts(model, variable, drawn, cell[1], seed)
    except ValueError as error:
        return _nothing(cell, str(error))
    _, table = compare(model, parts, stream_site(cell[0]), ranks, twin, config, _one_stage(progress))
    progress(_STAGE, 1.0, "")
    return table.assign(layer=cell[0], role=cell[1], note="")


def _seed(seed: int) -> int:
    """Of the new pairs: another one than that of the pairs that a cell is chosen on."""
    return int(generator("subspaces", seed).integers(2**31))


def _others(seen: Pairs, drawn: Pairs) -> Pairs:
    """The drawn pairs without those that have a skeleton of the pairs that were seen, or are shifted."""
    names = ["base_skeleton", "source_skeleton"]
    known = set(seen.pairs[names].to_numpy().ravel())
    is_new = ~drawn.pairs[names].isin(known).any(axis=1) & (drawn.pairs["shift"] == 0)
    return drawn.select(is_new.to_numpy())


def _parts(
    model: Any, variable: PairVariable, pairs: Pairs, role: str, seed: int
) -> tuple[Interchanges, Interchanges, Interchanges]:
    """Training, validation and test interchanges of the pairs that count. Raises ValueError where there are too few."""
    bases = pairs.pairs["base"].tolist()
    own = own_completions(model, bases).texts[0] if bases else []
    counts = judging.counting(pairs, role, own) if bases else np.zeros(0, bool)
    if counts.sum() < MIN_COUNTING:
        raise ValueError(f"{int(counts.sum())} new pairs of {len(pairs)} count; {MIN_COUNTING} are needed to search on")
    train, validation, test = split(with_same_value(variable.name, pairs, role, counts), seed)
    return train, validation, test


def with_same_value(variable: str, pairs: Pairs, role: str, rows: np.ndarray) -> Interchanges:
    """The interchanges of some pairs, rows bool [pairs], at a role, and behind them those from their same-value
    sources, whose answer is the base's own; pairs without such a source have the first alone."""
    interchanges = from_pairs({variable: pairs}, role, {variable: rows})
    index = np.flatnonzero(rows & (pairs.positions(role) >= 0).any(1))  # the pair of each interchange
    has = (pairs.pairs["same_value"].iloc[index] != "").to_numpy()
    texts = pairs.pairs["same_value"].iloc[index[has]].tolist()
    stays = {
        "sources": np.asarray(pairs.sequences("same_value"))[index[has]],
        "answers": interchanges.base_answers[has, None],
        "source_skeletons": np.array([skeleton(text) for text in texts], object),
    }
    arrays = {}
    for name in _ARRAYS:
        first = getattr(interchanges, name)
        second = stays.get(name, first[has])
        width = max(first.shape[-1], second.shape[-1])
        arrays[name] = np.concatenate([_padded(part, width) if name == "sources" else part for part in (first, second)])
    return Interchanges((variable,), **arrays)


_ARRAYS = (
    "bases",
    "sources",
    "base_positions",
    "source_positions",
    "cuts",
    "base_answers",
    "answers",
    "base_skeletons",
    "source_skeletons",
)


def _padded(sequences: np.ndarray, width: int) -> np.ndarray:
    return np.pad(sequences, ((0, 0), (0, width - sequences.shape[1])), constant_values=PAD)


def _nothing(cell: tuple[int, str] | None, note: str) -> pd.DataFrame:
    layer, role = cell if cell is not None else (None, "")
    row = {"method": "search", "layer": layer, "role": role, "pairs": 0, "note": note}
    return pd.DataFrame([row]).astype({"layer": "Int64"})


def _one_stage(progress: Progress) -> Progress:
    """The stages of a search as one; they are several, so that the fraction is only told to be under way."""

    def report(stage: str, fraction: float, note: str = "") -> None:
        progress(_STAGE, 0.5, f"{stage} {fraction:.0%} {note}".strip())

    return report
