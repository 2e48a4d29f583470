"""What was measured as a tidy table: every score with its interval, the controls beside it, and what may be claimed.

One row per (site, variable, offset, group of tokens, probe, metric). A probe is held against the controls of its own
class, and against all. docs/probing.md explains the columns.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

from cadmus.statistics import clustered
from probes.data.activations import layer_of
from probes.measurement.cells import CONTROLS, Cell, cells_of, controls_that_read, numbered
from probes.measurement.measure import Measurement
from probes.measurement.plan import TRAINED
from probes.measurement.score_table import ScoreTable
from probes.measurement.tally import ALL, Tally

MARGIN = 0.05  # a variable counts as readable, or read, where its score is surely this far above its best control
MAX_RISE = 0.1  # that the second half of the programs may have brought the best control
REMAINING = 2  # times that rise: what ever more doublings bring, where each brings two thirds of the one before
CERTAIN = 0.99  # a constant or the current token that is right this often gives the variable away
MIN_DIFFERENT = 0.01  # of the labels: a machine that changes fewer says nothing about a variable

_CELL = ("site", "layer", "variable", "offset", "by", "group", "tokens", "clusters", "probe", "as_number", "metric")
_BEYOND = ("probe_class", "best_control", "beyond", "beyond_low", "beyond_high", "rise", "p", "q", "p_somewhere")
_BEYOND_ALL = ("best_of_all", "beyond_all", "beyond_all_low", "beyond_all_high", "rise_of_all")
_SELECTIVITY = ("control_task", "selectivity", "selectivity_low", "selectivity_high")
_BITS = ("bits", "frequency_bits", "control_bits", "control_frequency_bits")
_CLAIMS = ("screen", "readable", "read", "claimed")
_REMARKS = ("validation", "determined", "penalty", "outside", *_CLAIMS, "problem", "note")
COLUMNS = (*_CELL, "score", "low", "high", *CONTROLS, *_BEYOND, *_BEYOND_ALL, *_SELECTIVITY, *_BITS, *_REMARKS)


def table(measured: Measurement, seed: int = 0) -> ScoreTable:
    """A row per (site, variable, offset, group, probe, metric), of `COLUMNS`.

    score, low, high: exact match of numbers, accuracy of categories, and R² of numbers (metric says which), with its
    95 % interval over skeletons; a column per control, NaN where it reads nothing; probe_class, best_control, beyond,
    beyond_low, beyond_high: the score minus the best control of the probe's own class (`cells.CONTROLS_OF_CLASS`),
    paired; rise: by how much that control would be better, had every control of the class gained once more what the
    second half of the training programs brought it; best_of_all, beyond_all, rise_of_all: the same of all controls; p,
    q (Benjamini-Hochberg over the map) and p_somewhere (max statistic) of `beyond`; control_task, selectivity; bits and
    frequency_bits: online code length per label, with the activations and without; control_bits and
    control_frequency_bits: of the permuted labels; validation: the score on the validation programs, to choose sites
    by; determined; screen: what gives the variable away, if anything does; readable, read: whether `beyond`, and
    `beyond_all` too, are surely above MARGIN; claimed: the stronger of these words that bounds support which hold in
    the whole map; problem: why there is no score; note: what to know of it. Nothing is claimed of a cell of fewer than
    30 clusters: percentile intervals are too short there. Raises ValueError for what was measured without controls.
    """
    if not measured.tested.baselines:
        raise ValueError("there are no controls to hold scores against; measure with controls=True")
    rows, tested, claims = [], [], []
    for site in measured.sites:
        for row, cell in _site_rows(measured, site, seed):
            rows.append(row)
            if cell is not None and cell.group == 0:
                tested.append((row, cell.correct - cell.control_correct))
            if cell is not None and not cell.network and cell.target in measured.targets.main:
                claims.append(row)
    if tested:
        flips = clustered.sign_flip(np.stack([difference for _, difference in tested], 1), seed=seed)
        q = clustered.benjamini_hochberg(flips.p)
        for k, (row, _) in enumerate(tested):
            row |= {"p": flips.p[k], "q": q[k], "p_somewhere": flips.familywise[k]}
    for row in rows:
        row.setdefault("claimed", "")
    _claim(claims)
    return ScoreTable(rows, columns=COLUMNS)


def _claim(rows: list[dict]) -> None:
    """Say in each row what is claimed: of the words that its own bounds support, those that they support as well with
    bounds which hold in all cells of its map at once, the rows with the same `by` and `offset`."""
    maps: dict[tuple, list[dict]] = {}
    for row in rows:
        maps.setdefault((row["by"], row["offset"]), []).append(row)
    for cells in maps.values():
        surely = {}
        for word, name, rise in (("readable", "beyond", "rise"), ("read", "beyond_all", "rise_of_all")):
            estimates, lows, rises = (np.array([row[c] for row in cells]) for c in (name, f"{name}_low", rise))
            surely[word] = _is_beyond(clustered.simultaneous(estimates, lows), rises)
        for k, row in enumerate(cells):
            if row["readable"] and surely["readable"][k]:
                row["claimed"] = "read" if row["read"] and surely["read"][k] else "readable"


def _is_beyond(low: np.ndarray | float, rise: np.ndarray | float) -> np.ndarray:
    """Whether a lower bound is above MARGIN, and would be, had the best control risen by all that may remain; not where
    it still rises by more than MAX_RISE."""
    return np.less_equal(rise, MAX_RISE) & np.greater(low - REMAINING * np.maximum(rise, 0), MARGIN)


def _site_rows(measured: Measurement, site: str, seed: int) -> Iterator[tuple[dict, Cell | None]]:
    """Yield the rows of one site, all scored on the same resamples, each with its cell where that has a score."""
    cells = numbered(itertools.chain.from_iterable(cells_of(measured, site, k) for k in measured.targets.own))
    scored = [cell for cell in cells if cell.number is not None]
    if scored:
        # [clusters, cells, (correct, control correct, n)], of the controls of the class, and of all
        sums = np.stack([np.stack([cell.correct, cell.control_correct, cell.n], -1) for cell in scored], 1)
        sums_of_all = np.stack([np.stack([cell.correct, cell.best_correct, cell.n], -1) for cell in scored], 1)
        score = clustered.accuracy_many(sums[..., [0, 2]], seed)
        beyond, beyond_all = (clustered.difference_many(part, seed) for part in (sums, sums_of_all))
    for cell in cells:
        target, k = measured.targets[cell.target], cell.number
        keys = _cell_columns(measured, site, cell)
        row = {**keys, "metric": "exact match" if target.number else "accuracy"}
        if k is None:
            yield row, None
            continue
        screen = _screen(cell.controls)
        sound = not screen and (cell.n > 0).sum() >= clustered.MIN_CLUSTERS
        readable = sound and bool(_is_beyond(beyond.low[k], cell.rise))
        row |= _interval("", score, k, estimate="score")
        row |= cell.controls
        row |= {"probe_class": cell.kind, "best_control": cell.best_control, **_interval("beyond", beyond, k)}
        row |= {"best_of_all": cell.best_of_all, **_interval("beyond_all", beyond_all, k)}
        row |= {"rise": cell.rise, "rise_of_all": cell.rise_of_all, "screen": screen, "readable": readable}
        row |= {"read": readable and bool(_is_beyond(beyond_all.low[k], cell.rise_of_all))}
        if cell.group or cell.network:
            yield row, cell
            continue
        yield row | _selectivity(measured, site, cell.target, seed), cell
        if target.regression:
            yield {**keys, "metric": "R2", **_r_squared(measured, site, cell.target, seed)}, None


# --- the columns of a cell --------------------------------------------------------------------------------------------


def _cell_columns(measured: Measurement, site: str, cell: Cell) -> dict[str, object]:
    """What is known of a cell whether it has a score or not."""
    target, group = measured.targets[cell.target], measured.tested.groups[cell.group]
    site_probes = measured.site_probes[TRAINED, site]
    by, name = ("role", target.where) if target.where and group.breakdown == ALL else (group.breakdown, group.name)
    return {
        "site": site,
        "layer": layer_of(site),
        "variable": target.name,
        "offset": target.offset,
        "by": by,
        "group": name,
        "tokens": int(cell.n.sum()),
        "clusters": int((cell.n > 0).sum()),
        "probe": "network" if cell.network else site_probes.probe_name(target),
        "as_number": target.regression,
        "determined": target.determined,
        "validation": np.nan if cell.group or cell.network else float(measured.validation[site][cell.target]),
        "penalty": np.nan if cell.network else site_probes.penalty(cell.target),
        "outside": int(measured.outside[cell.target]),
        "problem": cell.problem,
        "note": _note(measured, site, cell),
    }


def _note(measured: Measurement, site: str, cell: Cell) -> str:
    k, tested = cell.target, measured.tested
    if cell.network:
        return ""
    notes = [measured.site_probes[TRAINED, site].notes.get(k, "")]
    unread = int(tested.counts.n_predicted[k] - tested.tallies[TRAINED, site].n_predicted[k])
    if unread and not cell.problem:
        notes.append(f"nothing is read at {unread} test tokens, which count as wrong")
    if measured.unseen[k]:
        notes.append(f"test values that training lacks: {list(measured.unseen[k])}")
    return "; ".join(filter(None, notes))


def _screen(controls: Mapping[str, float]) -> str:
    """What alone gives a variable away, of the scores of its controls; empty where nothing does."""
    certain = {name for name, score in controls.items() if score >= CERTAIN}
    if "majority" in certain:
        return "constant"
    if "by token" in certain:
        return "the token shows it"
    return "the input determines it" if certain & {"input, linear", "input, nonlinear"} else ""


# --- R² and selectivity ----------------------------------------------------------------------------------------------


def _r_squared(measured: Measurement, site: str, k: int, seed: int) -> dict[str, float]:
    """R² of a number over all tokens; NaN where the value is constant, or some token was not read."""
    target, tested = measured.targets[k], measured.tested
    n = tested.counts.correct[k]
    yy, shifted = (moment.squared_error[k] for moment in tested.moments)
    y = (yy + n - shifted) / 2  # (y - 1)² = y² - 2 y + 1

    def statistic(totals: np.ndarray) -> np.ndarray:
        error, n, y, yy = np.moveaxis(totals, -1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return 1 - error / (yy - y**2 / n)

    def sums(tally: Tally) -> np.ndarray:
        """float64 [clusters, (squared error, n, sum of y, sum of y²)]"""
        return np.stack([tally.squared_error[tally.targets.index(target)], n, y, yy], -1)

    interval = clustered.bootstrap_many(sums(tested.tallies[TRAINED, site])[:, None], statistic, seed)
    controls = controls_that_read(measured, site, k)
    columns = _interval("", interval, 0, estimate="score")
    for name in ("untrained", "embedding", "input, linear"):
        if name in controls:
            columns[name] = float(statistic(sums(controls[name].tally).sum(0)))
    return columns


def _selectivity(measured: Measurement, site: str, k: int, seed: int) -> dict[str, float]:
    """Score minus control task, for all tokens; beside it the code lengths. Nothing, where there is no control task."""
    control = measured.targets.control_of(k)
    if control is None or control in measured.site_probes[TRAINED, site].problems:
        return {}
    correct, n = measured.tested.tallies[TRAINED, site].correct, measured.tested.counts.correct[k]
    # [clusters, 1 cell, (correct, control correct, n)]
    selectivity = clustered.difference_many(np.stack([correct[k], correct[control], n], -1)[:, None], seed)
    bits, frequency_bits = measured.bits[site][k]
    control_bits, control_frequency_bits = measured.bits[site][control]
    return {
        "control_task": float(correct[control].sum() / n.sum()),
        **_interval("selectivity", selectivity, 0),
        "bits": bits,
        "frequency_bits": frequency_bits,
        "control_bits": control_bits,
        "control_frequency_bits": control_frequency_bits,
    }


# --- alternative machines --------------------------------------------------------------------------------------------


def gaps(measured: Measurement, seed: int = 0) -> pd.DataFrame:
    """A row per (site, variable, alternative machine): the selectivity of the probe of the machine's states, that of
    the probe of the alternative's, and the gap between them, each with its interval (paired over skeletons)."""
    return pd.DataFrame([row for site in measured.sites for row in _site_gaps(measured, site, seed)])


def _site_gaps(measured: Measurement, site: str, seed: int) -> Iterator[dict[str, object]]:
    compared = list(_compared(measured, site))
    if not compared:
        return
    correct, n = measured.tested.tallies[TRAINED, site].correct, measured.tested.counts.correct
    # [clusters, cells, (correct, control, alternative, its control, n, alternative n)]
    sums = np.stack([np.stack([*correct[list(at)], n[at[0]], n[at[2]]], -1) for at in compared], 1)
    intervals = {
        "selectivity": clustered.bootstrap_many(sums, _true_selectivity, seed),
        "alternative_selectivity": clustered.bootstrap_many(sums, _alternative_selectivity, seed),
        "gap": clustered.bootstrap_many(sums, lambda t: _true_selectivity(t) - _alternative_selectivity(t), seed),
    }
    totals = sums.sum(0)
    for k, (own, _, other, _) in enumerate(compared):
        target = measured.targets[own]
        row = {
            "site": site,
            "layer": layer_of(site),
            "variable": target.name,
            "offset": target.offset,
            "machine": measured.targets[other].machine,
            "metric": "exact match" if target.number else "accuracy",
            "score": totals[k, 0] / totals[k, 4],
            "alternative_score": totals[k, 2] / totals[k, 5],
        }
        for name, interval in intervals.items():
            row |= _interval(name, interval, k)
        yield {**row, "differing": measured.tested.differing[other], "clusters": int(intervals["gap"].clusters[k])}


def _true_selectivity(totals: np.ndarray) -> np.ndarray:
    return (totals[..., 0] - totals[..., 1]) / totals[..., 4]


def _alternative_selectivity(totals: np.ndarray) -> np.ndarray:
    return (totals[..., 2] - totals[..., 3]) / totals[..., 5]


def _compared(measured: Measurement, site: str) -> Iterator[tuple[int, int, int, int]]:
    """Yield the indices of a target, its control, and both of an alternative machine, where all four are read, rest on
    clusters enough for an interval, and the machine changes labels enough."""
    targets, problems = measured.targets, measured.site_probes[TRAINED, site].problems
    n_clusters = (measured.tested.counts.correct > 0).sum(1)
    for k, name in itertools.product(targets.own, targets.machines):
        control, other = targets.control_of(k), targets.on_machine(k, name)
        if targets[k].regression or control is None or other is None:
            continue
        other_control = targets.control_of(other)
        if other_control is None:
            continue
        at = int(k), control, other, other_control
        if any(index in problems for index in at):
            continue
        enough = min(n_clusters[list(at)]) >= clustered.MIN_CLUSTERS
        if enough and measured.tested.differing[other] >= MIN_DIFFERENT:
            yield at


def _interval(name: str, intervals: clustered.Intervals, k: int, estimate: str = "") -> dict[str, float]:
    """The columns of cell k: NAME (or `estimate`), NAME_low, NAME_high."""
    low, high = (f"{name}_low", f"{name}_high") if name else ("low", "high")
    return {
        estimate or name: float(intervals.estimate[k]),
        low: float(intervals.low[k]),
        high: float(intervals.high[k]),
    }
