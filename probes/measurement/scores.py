"""What was measured as a tidy table: every score with its interval, the controls beside it, and what may be claimed.

One row per (site, variable, offset, group of tokens, metric). docs/probing.md explains the columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cadmus.states import variables
from cadmus.statistics import clustered
from probes.data.activations import layer_of
from probes.data.examples import TRUE_MACHINE, Target
from probes.measurement.measure import TRAINED, UNTRAINED, Measurement
from probes.measurement.tally import ALL, Tally
from probes.solvers.custom import CustomSiteProbes

MARGIN = 0.05  # a variable counts as read where its score is surely this far above its best control
CERTAIN = 0.99  # a constant or the current token that is right this often gives the variable away
EMBEDDING = "blocks.0.hook_resid_pre"
MIN_DIFFERENT = 0.01  # of the labels: a machine that changes fewer says nothing about a variable
_MIN_TOKENS = 20  # tokens that a score rests on, at least
CONTROLS = ("majority", "by token", "n-gram", "input, linear", "input, nonlinear", "embedding", "untrained")
COLUMNS = (
    *("site", "layer", "variable", "offset", "by", "group", "tokens", "clusters"),
    *("probe", "as_number", "metric"),
    *("score", "low", "high", *CONTROLS, "best_control", "beyond", "beyond_low", "beyond_high"),
    *("p", "q", "p_somewhere", "control_task", "selectivity", "selectivity_low", "selectivity_high"),
    *("bits", "frequency_bits", "control_bits", "control_frequency_bits"),
    *("validation", "determined", "penalty", "outside"),
    *("screen", "read", "problem", "note"),
)


def table(measured: Measurement, seed: int = 0) -> pd.DataFrame:
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
    if not measured.baselines:
        raise ValueError("there are no controls to hold scores against; measure with controls=True")
    rows, tested = [], []
    for site in measured.sites:
        for row, difference in _site(measured, site, seed):
            rows.append(row)
            if difference is not None:
                tested.append((row, difference))
    if tested:
        flips = clustered.sign_flip(np.stack([difference for _, difference in tested], 1), seed=seed)
        q = clustered.benjamini_hochberg(flips.p)
        for k, (row, _) in enumerate(tested):
            row |= {"p": flips.p[k], "q": q[k], "p_somewhere": flips.familywise[k]}
    return pd.DataFrame(rows, columns=COLUMNS)


def _site(measured: Measurement, site: str, seed: int) -> Iterator[tuple[dict, np.ndarray | None]]:
    """The rows of one site, all scored on the same resamples; beside those of all tokens, score minus best control by
    cluster: float [clusters]."""
    cells = [cell for target in measured.own for cell in _cells(measured, site, target)]
    scored = [cell for cell in cells if not cell.problem]
    places = {id(cell): k for k, cell in enumerate(scored)}
    if scored:
        sums = np.stack([np.stack([cell.right, cell.best, cell.n], -1) for cell in scored], 1)
        score = clustered.accuracy_many(sums[..., [0, 2]], seed)
        beyond = clustered.difference_many(sums, seed)
    for cell in cells:
        spec, k = measured.targets[cell.target], places.get(id(cell))
        about = {**_about(measured, site, cell), "metric": "exact match" if spec.number else "accuracy"}
        if k is None:
            yield about, None
            continue
        screen = _screen(cell.controls)
        row = {
            **about,
            **_interval("", score, k, estimate="score"),
            **cell.controls,
            "best_control": cell.best_control,
            **_interval("beyond", beyond, k),
            **(_selectivity(measured, site, cell.target, seed) if not cell.group else {}),
            "screen": screen,
            "read": bool(beyond.low[k] > MARGIN and not screen and about["clusters"] >= clustered.MIN_CLUSTERS),
        }
        yield row, cell.right - cell.best if not cell.group else None
        if spec.as_number and not cell.group:
            yield {**about, "metric": "R2", **_r_squared(measured, site, cell.target, seed)}, None


# --- cells -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cell:
    """A target and a group of tokens at a site: right, the best control's right and n, float [clusters]; the controls'
    scores; why there is no score, if there is none."""

    target: int
    group: int
    right: np.ndarray
    best: np.ndarray
    n: np.ndarray
    controls: dict[str, float]
    best_control: str
    problem: str


def _cells(measured: Measurement, site: str, target: int) -> Iterator[_Cell]:
    """That of all tokens, and of a target without a problem those of its groups that have tokens enough."""
    readers = _controls_that_read(measured, site, target)
    groups = range(len(measured.groups) if measured.counts.detailed[target] >= 0 else 1)
    for group in groups:
        by, _ = measured.groups[group]
        if not _may_break_down(measured.targets[target].name, by):
            continue
        n = measured.counts.of(target, group)
        total = float(n.sum())
        held = {name: tally.of(place, group) for name, (tally, place) in readers.items()}
        scores = {name: float(right.sum()) / max(total, 1) for name, right in held.items()}
        problem = measured.readouts[TRAINED, site].problems.get(target, "")
        if not problem and total < _MIN_TOKENS:
            problem = f"{int(total)} test tokens; a score needs {_MIN_TOKENS}"
        if not problem and not scores:
            problem = "no control reads it"
        if problem and group:
            continue
        best = max(scores, key=scores.get, default="")
        right = measured.tallies[TRAINED, site].of(target, group)
        yield _Cell(target, group, right, held.get(best, np.zeros_like(n)), n, scores, best, problem)
        if problem:
            return


def _may_break_down(variable: str, by: str) -> bool:
    """Whether a variable is broken down by these groups: how soon a register is read again is of interest for that
    register's values; and no variable by itself, whose label would then be the same in all of a group."""
    if by.startswith("reg."):
        return variable.startswith(by[:6]) and not variables.depends_on_future(variable)
    return not (by == "stack depth" and variable.split(".")[0] == "depth")


def _controls_that_read(measured: Measurement, site: str, target: int) -> dict[str, tuple[Tally, int]]:
    """The controls that read the target, each with the target's place in it."""
    place = measured.own.index(target)
    found = {name: (measured.baselines[name], place) for name in CONTROLS if name in measured.baselines}
    for name, key, k in (("embedding", (TRAINED, EMBEDDING), target), ("untrained", (UNTRAINED, site), place)):
        if key in measured.tallies and key != (TRAINED, site) and k not in measured.readouts[key].problems:
            found[name] = measured.tallies[key], k
    return {name: (tally, k) for name, (tally, k) in found.items() if tally.read[k]}


def _about(measured: Measurement, site: str, cell: _Cell) -> dict[str, object]:
    spec, readouts = measured.targets[cell.target], measured.readouts[TRAINED, site]
    by, group = measured.groups[cell.group]
    ours = "ridge" if spec.as_number else "discriminant"
    validation = float(measured.validation[site][cell.target]) if by == ALL else np.nan
    return {
        **{"site": site, "layer": layer_of(site), "variable": spec.name, "offset": spec.offset},
        **{"by": by[6:] if by.startswith("reg.") else by, "group": group},
        **{"tokens": int(cell.n.sum()), "clusters": int((cell.n > 0).sum())},
        **{"probe": readouts.name if isinstance(readouts, CustomSiteProbes) else ours},
        **{"as_number": spec.as_number, "determined": spec.determined, "validation": validation},
        **{"penalty": readouts.penalty(cell.target), "outside": int(measured.outside[cell.target])},
        "problem": cell.problem,
        "note": _note(measured, site, cell),
    }


def _note(measured: Measurement, site: str, cell: _Cell) -> str:
    notes = [measured.readouts[TRAINED, site].notes.get(cell.target, "")]
    unread = int(measured.counts.read[cell.target] - measured.tallies[TRAINED, site].read[cell.target])
    if unread and not cell.problem:
        notes.append(f"nothing is read at {unread} test tokens, which count as wrong")
    if measured.unseen[cell.target]:
        notes.append(f"test values that training lacks: {list(measured.unseen[cell.target])}")
    return "; ".join(filter(None, notes))


def _screen(controls: Mapping[str, float]) -> str:
    shown = {name for name, score in controls.items() if score >= CERTAIN}
    if "majority" in shown:
        return "constant"
    if "by token" in shown:
        return "the token shows it"
    return "the input determines it" if shown & {"input, linear", "input, nonlinear"} else ""


# --- R², selectivity, gaps -------------------------------------------------------------------------------------------


def _r_squared(measured: Measurement, site: str, target: int, seed: int) -> dict[str, float]:
    """Of a number, over all tokens; NaN where the value is constant, or some token was not read."""
    n = measured.counts.right_all[target]
    yy, shifted = (moment.error_all[target] for moment in measured.moments)
    y = (yy + n - shifted) / 2  # (y - 1)² = y² - 2 y + 1

    def statistic(totals: np.ndarray) -> np.ndarray:
        error, n, y, yy = np.moveaxis(totals, -1, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return 1 - error / (yy - y**2 / n)

    def sums(tally: Tally, place: int) -> np.ndarray:
        return np.stack([tally.error_all[place], n, y, yy], -1)

    found = clustered.bootstrap_many(sums(measured.tallies[TRAINED, site], target)[:, None], statistic, seed)
    readers = _controls_that_read(measured, site, target)
    shown = [name for name in ("untrained", "embedding", "input, linear") if name in readers]
    return {
        **_interval("", found, 0, estimate="score"),
        **{name: float(statistic(sums(*readers[name]).sum(0))) for name in shown},
    }


def _find(measured: Measurement, target: Target, **changes: object) -> int | None:
    asked = Target(target.variable, target.offset, **changes)
    return measured.targets.index(asked) if asked in measured.targets else None


def _selectivity(measured: Measurement, site: str, target: int, seed: int) -> dict[str, float]:
    """Score minus control task, for all tokens; beside it the code lengths."""
    spec, tally = measured.targets[target], measured.tallies[TRAINED, site]
    control = None if spec.as_number else _find(measured, spec, permuted=True)
    if control is None or control in measured.readouts[TRAINED, site].problems:
        return {}
    n = measured.counts.right_all[target]
    found = clustered.difference_many(
        np.stack([tally.right_all[target], tally.right_all[control], n], -1)[:, None], seed
    )
    return {
        "control_task": float(tally.right_all[control].sum() / n.sum()),
        **_interval("selectivity", found, 0),
        **dict(zip(("bits", "frequency_bits"), measured.bits[site][target], strict=True)),
        **dict(zip(("control_bits", "control_frequency_bits"), measured.bits[site][control], strict=True)),
    }


def gaps(measured: Measurement, seed: int = 0) -> pd.DataFrame:
    """A row per (site, variable, alternative machine): the selectivity of the probe of the machine's states, that of
    the probe of the alternative's, and the gap between them, each with its interval (paired over skeletons)."""
    rows = []
    for site in measured.sites:
        compared = list(_compared(measured, site))
        if not compared:
            continue
        tally, n = measured.tallies[TRAINED, site].right_all, measured.counts.right_all
        sums = np.stack([np.stack([*tally[at], n[at[0]], n[at[2]]], -1) for at in map(list, compared)], 1)
        found = {
            "selectivity": clustered.bootstrap_many(sums, _true_selectivity, seed),
            "alternative_selectivity": clustered.bootstrap_many(sums, _alternative_selectivity, seed),
            "gap": clustered.bootstrap_many(sums, lambda t: _true_selectivity(t) - _alternative_selectivity(t), seed),
        }
        totals = sums.sum(0)
        for k, (target, _, other, _) in enumerate(compared):
            spec = measured.targets[target]
            row = {
                **{"site": site, "layer": layer_of(site), "variable": spec.name, "offset": spec.offset},
                **{"machine": measured.targets[other].machine, "metric": "exact match" if spec.number else "accuracy"},
                **{"score": totals[k, 0] / totals[k, 4], "alternative_score": totals[k, 2] / totals[k, 5]},
            }
            for name, intervals in found.items():
                row |= _interval(name, intervals, k)
            rows.append({**row, "differing": measured.differing[other], "clusters": int(found["gap"].clusters[k])})
    return pd.DataFrame(rows)


def _true_selectivity(totals: np.ndarray) -> np.ndarray:
    return (totals[..., 0] - totals[..., 1]) / totals[..., 4]


def _alternative_selectivity(totals: np.ndarray) -> np.ndarray:
    return (totals[..., 2] - totals[..., 3]) / totals[..., 5]


def _compared(measured: Measurement, site: str) -> Iterator[tuple[int, int, int, int]]:
    """The places of a variable, its control, and both of an alternative machine, where all four are read, rest on
    clusters enough for an interval, and the machine changes labels enough."""
    machines = list(dict.fromkeys(target.machine for target in measured.targets if target.machine != TRUE_MACHINE))
    for target in measured.own:
        spec = measured.targets[target]
        for machine in machines if not spec.as_number else ():
            at = (
                target,
                _find(measured, spec, permuted=True),
                _find(measured, spec, machine=machine),
                _find(measured, spec, machine=machine, permuted=True),
            )
            if None in at or any(k in measured.readouts[TRAINED, site].problems for k in at):
                continue
            clusters = [(measured.counts.right_all[k] > 0).sum() for k in at]
            if min(clusters) >= clustered.MIN_CLUSTERS and measured.differing[at[2]] >= MIN_DIFFERENT:
                yield at


def _interval(name: str, found: clustered.Intervals, k: int, estimate: str = "") -> dict[str, float]:
    low, high = (f"{name}_low", f"{name}_high") if name else ("low", "high")
    return {estimate or name: float(found.estimate[k]), low: float(found.low[k]), high: float(found.high[k])}
