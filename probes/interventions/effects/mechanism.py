"""How a value gets from its store to its load: tracked at the store, looked up at the load, or both.

Read off interchanges by layer and role. A value that is *tracked at the store* is carried by the store's token: an
exchange there moves the answer. One that is *looked up at the load* still stands only where it arose when the load
comes to have it: exchanges where it arose move the answer up to the layer before the one after which exchanges at the
load do. By how far the load is, and how often the register had been overwritten.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from cadmus.statistics.clustered import MIN_CLUSTERS
from probes.interventions.counterfactuals.pairs import Pairs
from probes.interventions.effects.effects import beyond_controls
from probes.interventions.effects.outcomes import THRESHOLD, Outcomes

WORDS = ("tracked at the store", "looked up at the load", "both", "undecided")
COLUMNS = ("group", "role", "pairs", "first", "last", "best", "d", "d_low", "d_high", "mechanism")


def mechanism(outcomes: Outcomes, pairs: Pairs, seed: int = 0) -> pd.DataFrame:
    """The table: a row per group of pairs and role, the groups' word in `mechanism`.

    Groups: "all"; "near" and "far", by the median of the read distances; "first store" and "overwritten", by whether
    the register had been stored to before. Roles: "arose", "stored", "loaded"; where no value is loaded "consumed"
    takes its part, and where none is stored that row is absent. Columns: `pairs` that count, of discriminating ones
    without a shift; `first`, `last`: the first and the last layer (-1: none) after which an exchange at that role alone
    moves the answer: d, success minus the control that does best, is surely above 0.05; `best`, the layer where d is
    largest, with its `d` (`d_low`, `d_high`); bounds are simultaneous over layers and roles of a group.

    - *tracked at the store*: exchanges at the store move the answer, at some layer.
    - *looked up at the load*: exchanges where the value arose move it still at the layer before the first at which
      those at the load do, of the layers that were tested (the embedding of the token where it arose is there before
      layer 0; where the first layer tested is a later one, exchanges must still move it there).
    - *both*: both. *undecided*: neither, or exchanges at the load move nothing.

    Cells that amount to a change of input say nothing about where a value is carried, and have no part in this. Cells
    whose controls were not run move nothing, in no group; `d` is NaN and `best` -1 where no cell of a role has any. Nor
    does anything move the answer that rests on fewer than 30 skeletons.

    Args:
        outcomes: of the pairs, cells of single roles by layer; others are not looked at.
        pairs: the pairs, for their read distances and overwrites.
        seed: of the bootstrap.
    """
    cells = outcomes.cells
    spans = cells["span"] if "span" in cells else pd.Series("single", index=cells.index)
    reader = "loaded" if (outcomes.mask[(cells["role"] == "loaded").to_numpy()]).any() else "consumed"
    changes_input = (
        cells["input_change"].astype(bool) if "input_change" in cells else pd.Series(False, index=cells.index)
    )
    is_wanted = cells["role"].isin(["arose", "stored", reader]) & (spans == "single") & ~changes_input
    index = np.flatnonzero(is_wanted.to_numpy() & outcomes.mask.any(1))
    parts = []
    for name, rows in _groups(outcomes, pairs):
        table = _group(outcomes, index, rows, seed)
        if len(table):
            word = _word(table, reader, np.unique(cells["layer"]))
            parts.append(table.assign(group=name, mechanism=word))
    if not parts:
        return pd.DataFrame(columns=list(COLUMNS))
    return pd.concat(parts, ignore_index=True)[list(COLUMNS)]


def _groups(outcomes: Outcomes, pairs: Pairs) -> Iterator[tuple[str, np.ndarray]]:
    """Names of groups, and which pairs they hold: bool [pairs]."""
    shifted = np.zeros(len(pairs), np.bool_) if outcomes.shifted is None else np.asarray(outcomes.shifted, np.bool_)
    speaks = (np.asarray(outcomes.kinds) == "discriminating") & ~shifted
    distance, overwrites = (pairs.pairs[name].to_numpy() for name in ("read_distance", "overwrites"))
    yield "all", speaks
    near = distance <= np.median(distance[speaks]) if speaks.any() else speaks
    yield "near", speaks & near
    yield "far", speaks & ~near
    if overwrites[speaks].any():
        yield "first store", speaks & (overwrites == 0)
        yield "overwritten", speaks & (overwrites > 0)


def _group(outcomes: Outcomes, index: np.ndarray, rows: np.ndarray, seed: int) -> pd.DataFrame:
    """The rows of one group, without its name and its word."""
    mask = outcomes.counting[index] & rows
    index, mask = index[mask.any(1)], mask[mask.any(1)]
    if not len(index):
        return pd.DataFrame()
    beyond = beyond_controls(outcomes, index, mask, seed)
    is_run = outcomes.has_controls()[index]
    d, low, high = (np.where(is_run, values, np.nan) for values in beyond.least())
    moves = (low > THRESHOLD) & (beyond.clusters() >= MIN_CLUSTERS)
    layers, roles = (outcomes.cells[name].to_numpy()[index] for name in ("layer", "role"))
    table = []
    for role in dict.fromkeys(roles):
        own = np.flatnonzero(roles == role)
        used = layers[own][moves[own]]
        best = own[int(np.argmax(np.nan_to_num(d[own], nan=-2)))]
        table.append(
            {
                "role": role,
                "pairs": int(mask[own].any(0).sum()),
                "first": int(used.min(initial=layers.max() + 1)) if len(used) else -1,
                "last": int(used.max(initial=-1)),
                "best": int(layers[best]) if is_run[best] else -1,
                "d": d[best],
                "d_low": low[best],
                "d_high": high[best],
            }
        )
    return pd.DataFrame(table)


def _word(table: pd.DataFrame, reader: str, layers: np.ndarray) -> str:
    """The word of a group's rows; layers: those that were tested, int [..] ascending."""
    rows = table.set_index("role")
    if reader not in rows.index or rows["first"][reader] < 0:
        return "undecided"
    is_tracked = "stored" in rows.index and rows["first"]["stored"] >= 0
    is_looked_up = "arose" in rows.index and rows["last"]["arose"] >= _before(rows["first"][reader], layers)
    if is_tracked and is_looked_up:
        return "both"
    return "tracked at the store" if is_tracked else "looked up at the load" if is_looked_up else "undecided"


def _before(layer: int, layers: np.ndarray) -> int:
    """The layer tested before; -1, which is the embedding, before layer 0; the first one tested where that is later."""
    earlier = layers[(layers >= 0) & (layers < layer)]
    return int(earlier.max()) if len(earlier) else -1 if layer == 0 else layer
