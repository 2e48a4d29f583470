"""What was measured as a tidy table: every score with its interval, the controls beside it, and what may be claimed.

One row per (site, variable, offset, group of tokens, metric). Definitions are those of the README's table of columns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd

from probes import stats
from probes.examples import TRUE, Target
from probes.measure import TRAINED, UNTRAINED, Measured

MARGIN = 0.05  # a variable counts as read where its score is surely this far above its best control
CERTAIN = 0.99  # a constant or the current token that is right this often gives the variable away
EMBEDDING = "blocks.0.hook_resid_pre"
FEWEST_DIFFERENT = 0.01  # of the labels: a machine that changes fewer says nothing about a variable
_FEWEST = 20  # tokens that a score rests on, at least
CONTROLS = ("majority", "by token", "n-gram", "input, linear", "input, nonlinear", "embedding", "untrained")


def layer_of(site: str) -> int:
    """How many blocks have been at work where the site lies: 0 before the first, i + 1 within and after block i; -1 for
    a site behind the last."""
    block = re.match(r"blocks\.(\d+)\.(hook_resid_pre$)?", site)
    if block:
        return int(block[1]) + (block[2] is None)
    return 0 if "embed" in site else -1


def table(measured: Measured, seed: int = 0) -> pd.DataFrame:
    """A row per (site, variable, offset, group, metric).

    score, low, high: exact match of numbers, accuracy of categories, and R² of numbers (metric says which), with its
    95 % interval over skeletons; a column per control; best_control and beyond, beyond_low, beyond_high: the score
    minus the best control, paired; p, q (Benjamini-Hochberg over the map) and p_somewhere (max statistic); control_task,
    selectivity; bits and control_bits: online code length per label; validation: the score on the validation programs,
    to choose sites by; determined; screen: what gives the variable away, if anything does; read: what may be claimed;
    problem: why there is no score.
    """
    rows = [row for site in measured.sites for row in _site(measured, site, seed)]
    found = pd.DataFrame(rows)
    tested = (found.by == "all") & (found.metric != "R2") & found.score.notna()  # empty where nothing could be read
    return _with_significance(found, tested, measured, seed)


def _site(measured: Measured, site: str, seed: int) -> list[dict]:
    """The rows of one site: every cell (target, group) is scored at once, on the same resamples."""
    cells = _Cells(measured, site)
    score = stats.accuracy_many(cells.sums[..., :2], seed)
    beyond = stats.difference_many(cells.sums[..., [0, 2, 1]], seed)
    r2 = stats.bootstrap_many(cells.squares, _r2, seed)
    rows = []
    for k, (target, group) in enumerate(cells.keys):
        spec, (by, name) = measured.targets[target], measured.groups.names[group]
        n, controls = cells.n[k], cells.controls[k]
        problem = measured.readouts[TRAINED, site].problems.get(target, "")
        if not problem and n < _FEWEST:
            problem = f"{int(n)} test tokens; a score needs {_FEWEST}"
        if (problem and by != "all") or (by.startswith("reg.") and not spec.name.startswith(by[:6])):
            continue
        about = {
            **{"site": site, "layer": layer_of(site), "variable": spec.name, "offset": spec.offset},
            **{
                "by": by[6:] if by.startswith("reg.") else by,
                "group": name,
                "tokens": int(n),
                "clusters": int(score.clusters[k]),
            },
            "probe": "ridge" if spec.as_number else "discriminant",
            "determined": spec.determined,
            "penalty": measured.readouts[TRAINED, site].penalty(target),
            "validation": float(measured.validation[site][target]) if by == "all" else np.nan,
            "outside": int(measured.outside[target]),
            "problem": problem,
            "note": measured.readouts[TRAINED, site].notes.get(target, ""),
        }
        if problem:
            rows.append({**about, "metric": _metric(spec)})
            continue
        known = dict(zip(CONTROLS, controls, strict=True))
        best = max((name for name in CONTROLS if not np.isnan(known[name])), key=known.get)
        screen = _screen(known)
        rows.append(
            {
                **about,
                "metric": _metric(spec),
                **{"score": score.estimate[k], "low": score.low[k], "high": score.high[k]},
                **known,
                **{"best_control": best, "beyond": beyond.estimate[k]},
                **{"beyond_low": beyond.low[k], "beyond_high": beyond.high[k]},
                **_selectivity(measured, site, target, group, seed),
                "screen": screen,
                "read": bool(beyond.low[k] > MARGIN and not screen),
            }
        )
        if spec.as_number:
            twin = cells.twin_r2[k]
            rows.append(
                {**about, "metric": "R2", "score": r2.estimate[k], "low": r2.low[k], "high": r2.high[k]}
                | {"untrained": twin, "input, linear": cells.input_r2[k]}
            )
    return rows


def _metric(target: Target) -> str:
    return "exact match" if target.number else "accuracy"


def _r2(totals: np.ndarray) -> np.ndarray:
    error, n, y, yy = np.moveaxis(totals, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):  # a group in which the value is constant has none
        return 1 - error / (yy - y**2 / n)


def _screen(controls: Mapping[str, float]) -> str:
    if controls["majority"] >= CERTAIN:
        return "constant"
    if controls["by token"] >= CERTAIN:
        return "the token shows it"
    if max(controls["input, linear"], controls["input, nonlinear"]) >= CERTAIN:
        return "the input determines it"
    return ""


class _Cells:
    """The cells (target, group) of a site as arrays over clusters: sums [clusters, cells, (right, n, best control's
    right)], squares [clusters, cells, (error, n, y, yy)]; controls [cells, CONTROLS], NaN where one is lacking."""

    def __init__(self, measured: Measured, site: str):
        self.keys, right, n, squares, held = [], [], [], [], []
        twin = measured.tallies.get((UNTRAINED, site))
        embedding = measured.tallies.get((TRAINED, EMBEDDING)) if site != EMBEDDING else None
        place = {k: i for i, k in enumerate(own(measured))}
        self.twin_r2, self.input_r2 = [], []
        for target in place:
            detailed = measured.counts.detailed[target] >= 0
            own_right, own_error = _both(measured.tallies[TRAINED, site], target, detailed)
            count, _ = _both(measured.counts, target, detailed)
            _, yy = _both(measured.moments[0], target, detailed)
            _, shifted = _both(measured.moments[1], target, detailed)
            y = (yy + count - shifted) / 2  # (y - 1)² = y² - 2 y + 1
            at = [
                *(_both(measured.baselines[name], place[target], detailed) for name in CONTROLS[:5]),
                _both(embedding, target, detailed) if embedding else None,
                _both(twin, place[target], detailed) if twin else None,
            ]
            for group in range(count.shape[1]):
                if group and not count[:, group].any():
                    continue
                self.keys.append((target, group))
                right.append(own_right[:, group])
                n.append(count[:, group])
                squares.append(np.stack([a[:, group] for a in (own_error, count, y, yy)], -1))
                held.append([None if one is None else one[0][:, group] for one in at])
                for into, one in ((self.twin_r2, at[6]), (self.input_r2, at[3])):
                    totals = None if one is None else [a[:, group].sum() for a in (one[1], count, y, yy)]
                    into.append(np.nan if totals is None else float(_r2(np.array(totals, float))))
        self.n = np.array([column.sum() for column in n])
        self.controls = np.array(
            [
                [np.nan if c is None else c.sum() / max(total, 1) for c in row]
                for row, total in zip(held, self.n, strict=True)
            ]
        )
        best = [row[int(np.nanargmax(c))] for row, c in zip(held, self.controls, strict=True)]
        self.sums = np.stack([np.stack(part, 1) for part in (right, n, best)], -1)
        self.squares = np.stack(squares, 1).astype(np.float64)


def _both(tally, target: int, detailed: bool) -> tuple[np.ndarray, np.ndarray]:
    """(right, error) of a target: float [clusters, groups]."""
    if detailed:
        row = tally.detailed[target]
        return tally.right[row], tally.error[row]
    return tally.right_all[target][:, None], tally.error_all[target][:, None]


def own(measured: Measured) -> list[int]:
    """The places of the machine's own variables among the targets: no controls, no alternative machines."""
    return [k for k, t in enumerate(measured.targets) if t.machine == TRUE and not t.permuted]


def _find(measured: Measured, target: Target, **changes: object) -> int | None:
    asked = Target(target.variable, target.offset, **changes)
    return measured.targets.index(asked) if asked in measured.targets else None


def _selectivity(measured: Measured, site: str, target: int, group: int, seed: int) -> dict[str, float]:
    """Score minus control task, for all tokens; beside it the code lengths."""
    spec = measured.targets[target]
    control = None if spec.as_number else _find(measured, spec, permuted=True)
    if group or control is None:
        return {}
    tally = measured.tallies[TRAINED, site]
    n = measured.counts.right_all[target]
    found = stats.difference_many(np.stack([tally.right_all[target], tally.right_all[control], n], -1)[:, None], seed)
    return {
        "control_task": tally.right_all[control].sum() / max(n.sum(), 1),
        **{"selectivity": found.estimate[0], "selectivity_low": found.low[0], "selectivity_high": found.high[0]},
        **{"bits": measured.bits[site][target], "control_bits": measured.bits[site][control]},
    }


def _with_significance(found: pd.DataFrame, tested: pd.Series, measured: Measured, seed: int) -> pd.DataFrame:
    """Adds p, q and p_somewhere to the cells of all tokens, tested together."""
    at = {k: i for i, k in enumerate(own(measured))}
    targets = [measured.targets[k] for k in at]
    named = {
        (t.name, t.offset, "ridge" if t.as_number else "discriminant"): k for k, t in zip(at, targets, strict=True)
    }
    differences = []
    for row in found[tested].itertuples():
        target = named[row.variable, row.offset, row.probe]
        right = measured.tallies[TRAINED, row.site].right_all[target]
        differences.append(right - _control_right(measured, row.site, row.best_control, target, at[target]))
    found = found.assign(p=np.nan, q=np.nan, p_somewhere=np.nan)
    if differences:
        flips = stats.sign_flip(np.stack(differences, 1), seed=seed)
        found.loc[tested, "p"] = flips.p
        found.loc[tested, "p_somewhere"] = flips.familywise
        found.loc[tested, "q"] = stats.benjamini_hochberg(flips.p)
    return found


def _control_right(measured: Measured, site: str, control: str, target: int, place: int) -> np.ndarray:
    if control == "embedding":
        return measured.tallies[TRAINED, EMBEDDING].right_all[target]
    if control == "untrained":
        return measured.tallies[UNTRAINED, site].right_all[place]
    return measured.baselines[control].right_all[place]


def gaps(measured: Measured, seed: int = 0) -> pd.DataFrame:
    """A row per (site, variable, alternative machine): the selectivity of the probe of the machine's states, that of
    the probe of the alternative's, and the gap between them, each with its interval (paired over skeletons)."""
    rows = []
    machines = list(dict.fromkeys(t.machine for t in measured.targets if t.machine != TRUE))
    for site in measured.sites:
        tally, keys, sums = measured.tallies[TRAINED, site], [], []
        for target in own(measured):
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
                differing = measured.differing[at[2]]
                if differing < FEWEST_DIFFERENT:
                    continue
                keys.append((spec, machine, differing))
                n = measured.counts.right_all
                columns = [*(tally.right_all[k] for k in at), n[at[0]], n[at[2]]]
                sums.append(np.stack(columns, -1))
        if not keys:
            continue
        stacked = np.stack(sums, 1)
        own_ = stats.bootstrap_many(stacked, lambda t: (t[..., 0] - t[..., 1]) / t[..., 4], seed)
        other = stats.bootstrap_many(stacked, lambda t: (t[..., 2] - t[..., 3]) / t[..., 5], seed)
        gap = stats.bootstrap_many(
            stacked, lambda t: (t[..., 0] - t[..., 1]) / t[..., 4] - (t[..., 2] - t[..., 3]) / t[..., 5], seed
        )
        totals = stacked.sum(0)
        for k, (spec, machine, differing) in enumerate(keys):
            rows.append(
                {
                    **{"site": site, "layer": layer_of(site), "variable": spec.name, "machine": machine},
                    "metric": _metric(spec),
                    **{"score": totals[k, 0] / totals[k, 4], "alternative_score": totals[k, 2] / totals[k, 5]},
                    **_named("selectivity", own_, k),
                    **_named("alternative_selectivity", other, k),
                    **_named("gap", gap, k),
                    **{"differing": differing, "clusters": int(gap.clusters[k])},
                }
            )
    return pd.DataFrame(rows)


def _named(name: str, intervals: stats.Intervals, k: int) -> dict[str, float]:
    return {name: intervals.estimate[k], f"{name}_low": intervals.low[k], f"{name}_high": intervals.high[k]}
