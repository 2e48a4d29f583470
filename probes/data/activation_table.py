"""Activations and states as one data frame, a row per token: for pandas, Parquet, and whatever reads these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cadmus.machine import kernel, tokens, vm
from cadmus.models.hooks import NamesFilter
from probes.data.activations import check_sites, token_rows
from probes.data.targets import Target, Targets, Variable, read
from probes.data.token_map import TokenMap


def activation_table(
    model: Any,
    programs: np.ndarray,
    sites: NamesFilter,
    targets: Sequence[Target | str | Variable] = (),
    *,
    where: np.ndarray | None = None,
    arrays: bool = False,
    token_map: TokenMap | None = None,
) -> pd.DataFrame:
    """A row per token of some programs: where it stands, the machine's state after it, and the activations there.

    Columns: `program` (row of `programs`), `position` (the model's; token `position` - 1 of the program), `token` (its
    character), one per target, called by its variable (and offset, `depth+1`), Int64 with missing values where it is
    not defined; and the activations as float32: a column per feature, `SITE.0`, `SITE.1`, ..., or with `arrays` one per
    site that holds lists, which Parquet keeps. Rows stand by program and position, and are all held in memory.

    Args:
        model: of any backend; with `token_map`, any of TransformerLens.
        programs: uint8 [n, width].
        sites: a hook name, several, or a predicate on names.
        targets: variables, by name, as a function, or as a `Target` of the machine itself, perhaps with an offset.
        where: bool [n, 1 + width], the positions of the rows, the marker's first; by default every token.
        arrays: whether a site's activations are one column.
        token_map: what a model that is not ours reads (`probes.data.token_map`).

    Raises:
        ValueError: as `token_rows` and `variables.read` raise it; for targets of alternative machines, roles and
            permuted labels, and for two columns of one name.
    """
    states = Targets(targets)
    for target in states:
        if target != Target(target.variable, target.offset):
            raise ValueError(f"{target} is no plain state; name a variable, and an offset if you like")
    names = check_sites(model, sites, token_map)
    headings = [_heading(target) for target in states]
    repeated = {name for name in headings if headings.count(name) > 1}
    if repeated:
        raise ValueError(f"two columns would be called {', '.join(sorted(repeated))}; name each variable once")
    batches = list(token_rows(model, programs, names, where=where, token_map=token_map))
    rows, positions = (
        np.concatenate([getattr(batch, name) for batch in batches] or [np.zeros(0, np.int64)])
        for name in ("programs", "positions")
    )
    order = np.lexsort((positions, rows))
    rows, positions = rows[order], positions[order]
    characters = np.array(list(vm.VOCAB), dtype=object)
    frame = {
        "program": rows,
        "position": positions,
        "token": characters[tokens.sequences(programs)[rows, positions]],
        **_states(programs, states, headings, rows, positions),
    }
    for site in names:
        x = np.concatenate([batch.activations[site] for batch in batches] or [np.zeros((0, 0), np.float32)])[order]
        frame |= {site: list(x)} if arrays else {f"{site}.{k}": column for k, column in enumerate(x.T)}
    return pd.DataFrame(frame)


def _heading(target: Target) -> str:
    return target.name + (f"{target.offset:+d}" if target.offset else "")


def _states(
    programs: np.ndarray, targets: Sequence[Target], headings: Sequence[str], rows: np.ndarray, positions: np.ndarray
) -> dict[str, pd.Series]:
    """The columns of the targets at (program, position): Int64, missing where they are not defined."""
    traces = kernel.traces(programs) if targets else None
    columns = {}
    for heading, target in zip(headings, targets, strict=True):
        states = read(traces, programs, target.variable, offset=target.offset)  # type: ignore[arg-type]
        values = pd.array(states.values[rows, positions].astype(np.int64), dtype="Int64")
        values[~states.defined[rows, positions]] = pd.NA
        columns[heading] = pd.Series(values)
    return columns
