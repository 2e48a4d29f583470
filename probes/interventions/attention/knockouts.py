"""What attention along the data flow is needed for: edges that are blocked, or moved, beside other edges of equal mass.

For each prompt the machine names the edges along which a value comes to the answer. They are blocked in one head, in
all heads of a layer, in all layers; a knock-out *breaks* an answer that was right and no longer is. Beside it stand two
controls on the same prompts: as much attention taken elsewhere in that head (else in its layer), on edges that no value
flows along, and as much taken from queries that take no value at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from cadmus.machine import tokens
from cadmus.runtime.progress import Progress, no_progress
from cadmus.runtime.seeds import generator
from cadmus.statistics import simultaneous
from cadmus.statistics.clustered import MIN_CLUSTERS, benjamini_hochberg
from probes.interventions.attention.answers import Bases, EdgeSet, Judge, Texts, answers, judged
from probes.interventions.attention.flow import data_flow, patterns
from probes.interventions.attention.mass_controls import MASS_CONTROLS, TOLERANCE, Finder, Prompt
from probes.interventions.effects.outcomes import THRESHOLD
from probes.interventions.effects.verdicts import LEVEL

LOAD = "load"  # the edges from a load to the store and to where the value arose, together; of layers alone
DEFAULT_KINDS = ("load_store", "load_origin", LOAD, "store", "operand", "decision")
MIN_MASS = 0.1  # attention on its edges, from which on a prompt counts for a head, or for a layer
MIN_MATCHED = 0.8  # the share of prompts that have a control, below which nothing is decided
_ROUNDING = 1e-6  # of sums of attention in float32
_BATCH = 64


@dataclass(frozen=True)
class Move:
    """Where the edges of a value could lead instead, and what would then be answered."""

    edges: pd.DataFrame
    """`row`, `kind`, `query`, `key` as in the edges that are blocked, and `to`, the other value's carrier."""
    becomes: Judge
    """Whether programs are those that the other value asks for."""


@dataclass(frozen=True)
class _Cell:
    """What is blocked together: the edges of a kind in one head, one layer or all."""

    kind: str
    layer: int
    """-1: all."""
    head: int
    """-1: all of the layer."""
    mass: np.ndarray
    """float [n]: attention on the edges, of the heads that have most of it: the largest of all heads in it."""
    edges: np.ndarray
    """int64 [m, 5]: as `EdgeSet.edges`."""
    controls: dict[str, np.ndarray] = field(default_factory=dict)
    """By name, the same; prompts without a control of equal mass have no edges there."""

    def rows(self, name: str | None = None) -> np.ndarray:
        edges = self.edges if name is None else self.controls[name]
        return np.isin(np.arange(len(self.mass)), edges[:, 0])

    def matched_share(self, name: str) -> float:
        """The share of its prompts that have a control."""
        rows = self.rows()
        return float(self.rows(name)[rows].mean()) if rows.any() else 0.0

    def usable_controls(self) -> tuple[str, ...]:
        """The control elsewhere, and the other one where enough prompts have it."""
        return MASS_CONTROLS if self.matched_share("no_flow") >= MIN_MATCHED else MASS_CONTROLS[:1]

    def matched(self) -> np.ndarray:
        """Which prompts have all usable controls: bool [n]."""
        return np.all([self.rows(name) for name in self.usable_controls()], 0)


def knockouts(
    model: Any,
    bases: Bases,
    edges: pd.DataFrame,
    *,
    kinds: Sequence[str] = DEFAULT_KINDS,
    move: Move | None = None,
    heads: bool = True,
    layers: bool = True,
    seed: int = 0,
    progress: Progress = no_progress,
) -> pd.DataFrame:
    """Block the edges of each kind in each head, layer, and in all: a row per kind, layer and head (-1: all).

    Heads and layers of which fewer than 30 prompts count have no row: nothing can be decided about them.

    Columns: `pairs`, the prompts that count: the model's own answer is right, and the attention on its edges, summed,
    is 0.1 or more (of one head at least); `share` of them in all right ones; `mass`, that attention on average (of
    several heads the largest); `broken` (`broken_low`, `broken_high`), the share whose answer is no longer right;
    `matched`, `matched_no_flow`: the shares that have a control of equal mass (10 % more or less) elsewhere, and of
    queries without flow; `controls`: which of the two the row rests on ("elsewhere, no_flow"; "elsewhere" alone where
    less than 80 % have the other, as in the last layer, of which the last token's attention alone reaches the answer;
    empty where none was run); `elsewhere`, `no_flow`: what these break, of the matched ones (else NaN); `d` (`d_low`,
    `d_high`): broken minus the control that breaks more, paired, with a 95 % interval by skeleton; `q`:
    Benjamini-Hochberg over the heads (of the layers over the layers) of "d is above 0.05"; `needed`: q at most 0.05,
    matched at least 0.8, 30 matched prompts of 30 skeletons or more; `moved`, `moved_control`: the share whose answer
    becomes the other value's where the edges are moved to its carrier, and where they are blocked; `note`: why nothing
    is decided.

    Where no more than 5 % of the answers break, d cannot be above 0.05: controls are not run, and d is `broken` with
    the bounds of that.

    Args:
        model: of any backend.
        bases: the prompts and what the model makes of them.
        edges: `row`, `kind`, `query`, `key` (model positions) of each prompt's edges; `value_edges` makes them.
        kinds: which of them; "load" stands for the edges from loads to stores and origins together.
        move: where they could lead instead; None: nothing is moved.
        heads: whether heads are tested one by one.
        layers: whether layers are; else all heads of all layers are blocked at once, and nothing else.
        seed: of the controls that are drawn, and of the bootstrap.
        progress: follows the stage "knock-outs".
    """
    kinds = tokens.text_list(kinds, "kinds")
    right = bases.right()
    loads = edges[edges["kind"].isin(["load_store", "load_origin"])].drop_duplicates(["row", "query", "key"])
    edges = pd.concat([edges, loads.assign(kind=LOAD)], ignore_index=True)
    edges = edges[edges["kind"].isin(kinds) & right[edges["row"].to_numpy()]]
    present = [kind for kind in kinds if (edges["kind"] == kind).any()]
    finder, masses = _edges_of_heads(model, bases, edges, present, seed, progress)
    cells = _assembled(present, masses, finder, heads and layers, layers)
    blocked = _broken(model, bases, [cell.edges for cell in cells], right, progress)
    rates = [result[1][cell.rows()].mean() for result, cell in zip(blocked, cells)]
    open_cells = [number for number, rate in enumerate(rates) if rate > THRESHOLD]
    names = [(number, name) for number in open_cells for name in cells[number].usable_controls()]
    control_runs = _broken(model, bases, [cells[k].controls[name] for k, name in names], right, progress)
    controls = {key: run[1] for key, run in zip(names, control_runs)}
    table = pd.DataFrame([_row(cell, right) for cell in cells])
    if table.empty:
        return table
    table = _with_differences(table, cells, [run[1] for run in blocked], controls, bases, seed)
    table = table.assign(moved=np.nan, moved_control=np.nan)
    if move is not None:
        _add_moves(table, model, bases, move, cells, [run[0] for run in blocked], progress)
    progress("knock-outs", 1.0, "")
    return table


def _broken(
    model: Any, bases: Bases, sets: Sequence[np.ndarray], right: np.ndarray, progress: Progress
) -> list[tuple[Texts, np.ndarray]]:
    """What blocking each set of edges makes of the completions, and which right answers it breaks: bool [n]."""
    keys = [part.tobytes() for part in sets]
    distinct = dict(zip(keys, sets))  # kinds may share their edges
    treatments = [EdgeSet(len(bases), part) for part in distinct.values()]
    texts = answers(model, bases, treatments, progress)
    broken = right & ~judged(model, bases, treatments, texts, bases.is_right, right)
    out = dict(zip(distinct, zip(texts, broken)))
    return [out[key] for key in keys]


# --- edges and their controls ----------------------------------------------------------------------------------------


def _edges_of_heads(
    model: Any, bases: Bases, edges: pd.DataFrame, kinds: Sequence[str], seed: int, progress: Progress
) -> tuple[Finder, dict[str, np.ndarray]]:
    """The edges of every head with their controls, and by kind the attention on them: float [head, n]."""
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    finder = Finder(n_layers, n_heads)
    masses = {kind: np.zeros((n_layers * n_heads, len(bases))) for kind in kinds}
    rows = np.unique(edges["row"])
    by_row = {(row, kind): part[["query", "key"]].to_numpy() for (row, kind), part in edges.groupby(["row", "kind"])}
    rng = generator("knock-outs", seed)
    programs = bases.arrays()
    flow = data_flow(programs)
    flow_of = {row: part[["query", "key"]].to_numpy() for row, part in flow.groupby("program")}
    for first in range(0, len(rows), _BATCH):
        progress("knock-outs", first / max(len(rows), 1), "attention")
        here = rows[first : first + _BATCH]
        width = int(tokens.lengths(programs[here]).max())
        for row, attention in zip(here.tolist(), patterns(model, programs[here, :width])):
            prompt = Prompt(row, attention, bases.cuts[row], flow_of.get(row, np.zeros((0, 2), np.int64)))
            for kind in kinds:
                if (row, kind) in by_row:
                    finder.find(prompt, kind, by_row[row, kind], masses[kind], rng)
    return finder, masses


def _assembled(
    kinds: Sequence[str], masses: dict[str, np.ndarray], finder: Finder, heads: bool, layers: bool
) -> list[_Cell]:
    """The cells: heads, layers and all layers of each kind in which some prompt has mass."""
    cells = []
    n_layers, n_heads = finder.n_layers, finder.n_heads
    for kind in kinds:
        for layer in range(n_layers if layers else 0):
            block = range(layer * n_heads, (layer + 1) * n_heads)
            if heads and kind != LOAD:
                cells += [_cell(kind, layer, h % n_heads, [h], masses, finder) for h in block]
            cells.append(_cell(kind, layer, -1, block, masses, finder))
        cells.append(_cell(kind, -1, -1, range(n_layers * n_heads), masses, finder))
    return [cell for cell in cells if cell.rows().sum() >= (MIN_CLUSTERS if cell.layer >= 0 else 1)]


def _cell(
    kind: str,
    layer: int,
    head: int,
    group: Sequence[int],
    masses: dict[str, np.ndarray],
    finder: Finder,
) -> _Cell:
    """The cell of a group of heads (of all layers).

    A prompt is matched where its controls, all together and each edge once, weigh as much (10 % more or less).
    """
    parts = finder.parts
    mass = masses[kind][list(group)]  # [head, n]
    rows = mass.max(0) >= MIN_MASS
    own = [np.concatenate(parts[kind, h]) for h in group if (kind, h) in parts]
    edges = np.concatenate(own) if own else np.zeros((0, 5), np.int64)
    edges = edges[rows[edges[:, 0]]]
    controls = {}
    for name in MASS_CONTROLS:
        keys = [(kind, h, name) for h in group if (kind, h, name) in finder.matches]
        if not keys:
            controls[name] = np.zeros((0, 5), np.int64)
            continue
        joined, first = np.unique(
            np.concatenate([part for key in keys for part in finder.matches[key]]), axis=0, return_index=True
        )
        weights = np.concatenate([part for key in keys for part in finder.weights[key]])[first]
        control_mass = np.bincount(joined[:, 0], weights, minlength=len(rows))
        is_matched = rows & (abs(control_mass - mass.sum(0)) <= TOLERANCE * mass.sum(0) + _ROUNDING)
        controls[name] = joined[is_matched[joined[:, 0]]]
    return _Cell(kind, layer, head, np.where(rows, mass.max(0), 0.0), edges, controls)


# --- tables ----------------------------------------------------------------------------------------------------------


def _row(cell: _Cell, right: np.ndarray) -> dict[str, Any]:
    rows = cell.rows()
    return {
        "kind": cell.kind,
        "layer": cell.layer,
        "head": cell.head,
        "pairs": int(rows.sum()),
        "share": rows.sum() / max(right.sum(), 1),
        "mass": float(cell.mass[rows].mean()),
        "matched": cell.matched_share("elsewhere"),
        "matched_no_flow": cell.matched_share("no_flow"),
    }


def _with_differences(
    table: pd.DataFrame,
    cells: list[_Cell],
    blocked: list[np.ndarray],
    controls: dict[tuple[int, str], np.ndarray],
    bases: Bases,
    seed: int,
) -> pd.DataFrame:
    """The table with what breaks, and beyond which control."""
    rows = np.stack([cell.rows() for cell in cells])
    columns = [
        simultaneous.share_columns(name, np.stack(blocked), rows, bases.skeletons, bases.skeletons)
        for name in ("broken", "d")
    ]
    table = table.assign(**columns[0], **dict.fromkeys(MASS_CONTROLS, np.nan), controls="", **columns[1], p_alone=1.0)
    n_matched, n_skeletons = table["pairs"].to_numpy().copy(), np.full(len(table), len(bases))
    for number in sorted({number for number, _ in controls}):
        cell = cells[number]
        mask = cell.matched()
        n_matched[number], n_skeletons[number] = mask.sum(), len(np.unique(bases.skeletons[mask]))
        table.loc[number, "controls"] = ", ".join(cell.usable_controls())
        several = []
        for name in cell.usable_controls():
            values = controls[number, name]
            difference = blocked[number].astype(np.float64) - values
            several.append(
                simultaneous.two_way(difference[None], mask[None], bases.skeletons, bases.skeletons, seed=seed)
            )
            table.loc[number, name] = values[mask].mean() if mask.any() else np.nan
        for column in ("low", "high"):
            table.loc[number, f"d_{column}"] = min(float(getattr(one, column)[0]) for one in several)
        table.loc[number, "d"] = min(float(one.estimate[0]) for one in several)
        table.loc[number, "p_alone"] = max(float(one.p_alone(THRESHOLD)[0]) for one in several)
    return _with_verdicts(table, {number for number, _ in controls}, n_matched, n_skeletons)


def _with_verdicts(table: pd.DataFrame, controlled: set[int], n: np.ndarray, n_skeletons: np.ndarray) -> pd.DataFrame:
    """The table with q and `needed`. controlled: the rows whose controls were run; n, n_skeletons int [rows]: matched
    prompts, and their skeletons."""
    is_run = np.array([number in controlled for number in range(len(table))], np.bool_)
    is_enough = (n >= MIN_CLUSTERS) & (n_skeletons >= MIN_CLUSTERS)
    testable = ~is_run | (is_enough & (table["matched"].to_numpy() >= MIN_MATCHED))
    p = np.where(is_run, table["p_alone"], 1.0)
    q = np.full(len(table), np.nan)
    levels = np.select([table["layer"] < 0, table["head"] < 0], [2, 1])
    for level in range(3):
        index = np.flatnonzero((levels == level) & testable)
        q[index] = benjamini_hochberg(p[index])  # over all kinds
    notes = np.select(
        [
            table["pairs"] < MIN_CLUSTERS,
            is_run & (table["matched"] < MIN_MATCHED),
            is_run & (n < MIN_CLUSTERS),
            is_run & (n_skeletons < MIN_CLUSTERS),
        ],
        [
            "fewer than 30 prompts have the edge and attend to it",
            "undecided: fewer than 80 % have a control of equal mass",
            "undecided: fewer than 30 prompts have a control",
            "undecided: the prompts with a control are of fewer than 30 skeletons",
        ],
        "",
    )
    return table.drop(columns="p_alone").assign(q=q, needed=np.nan_to_num(q, nan=1.0) <= LEVEL, note=notes)


def _add_moves(
    table: pd.DataFrame,
    model: Any,
    bases: Bases,
    move: Move,
    cells: list[_Cell],
    blocked: list[Texts],
    progress: Progress,
) -> None:
    """Add what moved edges make the answer: of all layers, and of the layers and heads that are needed."""
    numbers, sets, masks = [], [], []
    for number, cell in enumerate(cells):
        if cell.layer >= 0 and not table["needed"][number]:
            continue
        to = move.edges[move.edges["kind"] == cell.kind]
        targets = _targets(to)
        keys = [tuple(edge) for edge in cell.edges[:, [0, 3, 4]].tolist()]
        has = np.array([key in targets for key in keys], np.bool_)
        if not has.any():
            continue
        edges = cell.edges[has]
        numbers.append(number)
        sets.append(EdgeSet(len(bases), edges, np.array([targets[key] for key, ok in zip(keys, has) if ok], np.int64)))
        masks.append(np.bincount(edges[:, 0], minlength=len(bases)) > 0)
    none = np.zeros(len(bases), np.bool_)
    moved = judged(model, bases, sets, answers(model, bases, sets, progress), move.becomes, none)
    taken = [EdgeSet(len(bases), part.edges) for part in sets]
    lost = judged(model, bases, taken, [blocked[number] for number in numbers], move.becomes, none)
    for number, mask, values, control in zip(numbers, masks, moved, lost):
        table.loc[number, ["moved", "moved_control"]] = values[mask].mean(), control[mask].mean()


def _targets(edges: pd.DataFrame) -> dict[tuple[int, ...], int]:
    columns = (edges[name].tolist() for name in ("row", "query", "key", "to"))
    return {(row, query, key): to for row, query, key, to in zip(*columns)}
