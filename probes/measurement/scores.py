"""What was measured as a tidy table: every score with its interval, the controls beside it, and what may be claimed.

One row per (site, variable, offset, group of tokens, metric). docs/probing.md explains the columns.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from cadmus.states import variables
from cadmus.statistics import clustered
from probes.data.activations import layer_of
from probes.measurement.measure import Measurement
from probes.measurement.plan import TRAINED, UNTRAINED
from probes.measurement.score_table import ScoreTable
from probes.measurement.tally import ALL, Group, Tally

MARGIN = 0.05  # a variable counts as read where its score is surely this far above its best control
CERTAIN = 0.99  # a constant or the current token that is right this often gives the variable away
EMBEDDING = "blocks.0.hook_resid_pre"
MIN_DIFFERENT = 0.01  # of the labels: a machine that changes fewer says nothing about a variable
_MIN_TOKENS = 20  # tokens that a score rests on
CONTROLS = ("majority", "by token", "n-gram", "input, linear", "input, nonlinear", "embedding", "untrained")

_CELL = ("site", "layer", "variable", "offset", "by", "group", "tokens", "clusters", "probe", "as_number", "metric")
_BEYOND = ("best_control", "beyond", "beyond_low", "beyond_high", "p", "q", "p_somewhere")
_SELECTIVITY = ("control_task", "selectivity", "selectivity_low", "selectivity_high")
_BITS = ("bits", "frequency_bits", "control_bits", "control_frequency_bits")
_REMARKS = ("validation", "determined", "penalty", "outside", "screen", "read", "problem", "note")
COLUMNS = (*_CELL, "score", "low", "high", *CONTROLS, *_BEYOND, *_SELECTIVITY, *_BITS, *_REMARKS)


def table(measured: Measurement, seed: int = 0) -> ScoreTable:
    """A row per (site, variable, offset, group, metric), of `COLUMNS`.

    score, low, high: exact match of numbers, accuracy of categories, and R² of numbers (metric says which), with its
    95 % interval over skeletons; a column per control, NaN where it reads nothing; best_control and beyond, beyond_low,
    beyond_high: the score minus the best control, paired; p, q (Benjamini-Hochberg over the map) and p_somewhere (max
    statistic); control_task, selectivity; bits and frequency_bits: online code length per label, with the activations
    and without; control_bits and control_frequency_bits: of the permuted labels; validation: the score on the
    validation programs, to choose sites by; determined; screen: what gives the variable away, if anything does; read:
    what may be claimed; problem: why there is no score; note: what to know of it. Nothing is claimed of a cell with
    fewer than 30 clusters: percentile intervals are too short there. Raises ValueError for what was measured without
    controls.
    """
    if not measured.tested.baselines:
        raise ValueError("there are no controls to hold scores against; measure with controls=True")
    rows, tested = [], []
    for site in measured.sites:
        for row, difference in _site_rows(measured, site, seed):
            rows.append(row)
            if difference is not None:
                tested.append((row, difference))
    if tested:
        flips = clustered.sign_flip(np.stack([difference for _, difference in tested], 1), seed=seed)
        q = clustered.benjamini_hochberg(flips.p)
        for k, (row, _) in enumerate(tested):
            row |= {"p": flips.p[k], "q": q[k], "p_somewhere": flips.familywise[k]}
    return ScoreTable(rows, columns=COLUMNS)


def _site_rows(measured: Measurement, site: str, seed: int) -> Iterator[tuple[dict, np.ndarray | None]]:
    """Yield the rows of one site, all scored on the same resamples; beside those of all tokens, score minus best
    control by cluster: float [clusters]."""
    cells = _numbered(itertools.chain.from_iterable(_cells(measured, site, k) for k in measured.targets.own))
    scored = [cell for cell in cells if cell.number is not None]
    if scored:
        # [clusters, cells, (correct, control correct, n)]
        sums = np.stack([np.stack([cell.correct, cell.control_correct, cell.n], -1) for cell in scored], 1)
        score = clustered.accuracy_many(sums[..., [0, 2]], seed)
        beyond = clustered.difference_many(sums, seed)
    for cell in cells:
        target, k = measured.targets[cell.target], cell.number
        keys = _cell_columns(measured, site, cell)
        row = {**keys, "metric": "exact match" if target.number else "accuracy"}
        if k is None:
            yield row, None
            continue
        screen = _screen(cell.controls)
        enough = (cell.n > 0).sum() >= clustered.MIN_CLUSTERS
        row |= _interval("", score, k, estimate="score")
        row |= cell.controls
        row |= {"best_control": cell.best_control, **_interval("beyond", beyond, k)}
        row |= {"screen": screen, "read": bool(beyond.low[k] > MARGIN and not screen and enough)}
        if cell.group:
            yield row, None
            continue
        yield row | _selectivity(measured, site, cell.target, seed), cell.correct - cell.control_correct
        if target.regression:
            yield {**keys, "metric": "R2", **_r_squared(measured, site, cell.target, seed)}, None


# --- cells -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cell:
    """A target and a group of tokens at a site."""

    target: int
    """The target's index."""

    group: int
    """The group's index; 0 is every token."""

    correct: np.ndarray
    """Tokens predicted correctly by the probe: float32 [clusters]."""

    control_correct: np.ndarray
    """The same of the best control."""

    n: np.ndarray
    """All tokens: float32 [clusters]."""

    controls: dict[str, float]
    """The scores of the controls that read the target."""

    best_control: str
    """The one with the highest score; empty where there is none."""

    problem: str
    """Why there is no score; empty where there is one."""

    number: int | None = None
    """The cell's number among those of the site that have a score."""


def _numbered(cells: Iterable[_Cell]) -> list[_Cell]:
    """Number the cells that have a score."""
    numbers = itertools.count()
    return [cell if cell.problem else replace(cell, number=next(numbers)) for cell in cells]


def _cells(measured: Measurement, site: str, k: int) -> Iterator[_Cell]:
    """Yield the cell over all tokens and, if it has no problem, one cell per group with enough tokens."""
    target, tested = measured.targets[k], measured.tested
    controls = _controls_that_read(measured, site, k)
    n_groups = len(tested.groups) if tested.counts.breaks_down(target) else 1
    for group in range(n_groups):
        if not _may_break_down(target.name, tested.groups[group]):
            continue
        n = tested.counts.of(target, group)
        total = float(n.sum())
        correct_of = {name: tally.of(target, group) for name, tally in controls.items()}
        scores = {name: float(correct.sum()) / max(total, 1) for name, correct in correct_of.items()}
        problem = measured.site_probes[TRAINED, site].problems.get(k, "")
        if not problem and total < _MIN_TOKENS:
            problem = f"{int(total)} test tokens; a score needs {_MIN_TOKENS}"
        if not problem and not scores:
            problem = "no control reads it"
        if problem and group:
            continue
        best = max(scores, key=lambda name: scores[name], default="")
        correct = tested.tallies[TRAINED, site].of(target, group)
        yield _Cell(k, group, correct, correct_of.get(best, np.zeros_like(n)), n, scores, best, problem)
        if problem:
            return


def _may_break_down(variable: str, group: Group) -> bool:
    """Whether a variable is broken down by a group's breakdown: how soon a register is read again is of interest for
    that register's values; and no variable by itself, whose label would then be the same in all of a group."""
    if group.register:
        return variable.startswith(f"reg.{group.register}.") and not variables.depends_on_future(variable)
    return not (group.breakdown == "stack depth" and variable.split(".")[0] == "depth")


def _controls_that_read(measured: Measurement, site: str, k: int) -> dict[str, Tally]:
    """The tallies of the controls that read target k."""
    target, tested = measured.targets[k], measured.tested
    tallies = {name: tested.baselines[name] for name in CONTROLS if name in tested.baselines}
    for name, key in (("embedding", (TRAINED, EMBEDDING)), ("untrained", (UNTRAINED, site))):
        if key in tested.tallies and key != (TRAINED, site):
            tally = tested.tallies[key]
            if tally.targets.index(target) not in measured.site_probes[key].problems:
                tallies[name] = tally
    return {name: tally for name, tally in tallies.items() if tally.n_predicted[tally.targets.index(target)]}


def _cell_columns(measured: Measurement, site: str, cell: _Cell) -> dict[str, object]:
    """What is known of a cell whether it has a score or not."""
    target, group = measured.targets[cell.target], measured.tested.groups[cell.group]
    site_probes = measured.site_probes[TRAINED, site]
    return {
        "site": site,
        "layer": layer_of(site),
        "variable": target.name,
        "offset": target.offset,
        "by": group.breakdown,
        "group": group.name,
        "tokens": int(cell.n.sum()),
        "clusters": int((cell.n > 0).sum()),
        "probe": site_probes.probe_name(target),
        "as_number": target.regression,
        "determined": target.determined,
        "validation": float(measured.validation[site][cell.target]) if group.breakdown == ALL else np.nan,
        "penalty": site_probes.penalty(cell.target),
        "outside": int(measured.outside[cell.target]),
        "problem": cell.problem,
        "note": _note(measured, site, cell),
    }


def _note(measured: Measurement, site: str, cell: _Cell) -> str:
    k, tested = cell.target, measured.tested
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
    controls = _controls_that_read(measured, site, k)
    columns = _interval("", interval, 0, estimate="score")
    for name in ("untrained", "embedding", "input, linear"):
        if name in controls:
            columns[name] = float(statistic(sums(controls[name]).sum(0)))
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
