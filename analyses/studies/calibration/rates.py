"""How often the instruments are right and wrong: the table of rates, of what they said of every case."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from analyses.studies.calibration.instruments import INSTRUMENTS
from analyses.studies.calibration.judgements import UNUSED, USED, USED_TOGETHER
from analyses.studies.calibration.planted import CONDITIONS
from analyses.studies.calibration.trained import TRAINED
from cadmus.runtime.seeds import generator
from cadmus.statistics.proportions import wilson

RESAMPLES = 200  # of models, for the interval of an AUROC
POOLED = "all single"  # the conditions in which X is carried once by a model made by hand, together


def rates(cases: pd.DataFrame) -> pd.DataFrame:
    """How often each instrument is right and wrong, by condition.

    Returns a row per (instrument, condition, rate): estimate, low, high (95 %) and n, the cases it rests on. Rates are
    `auroc` (of the scores; resampled by model), `false_positive` (claims among the cases that carry nothing),
    `false_positive_decoy` (among those at which X can be read all the same) and `false_negative` (what carries X and is
    not claimed). Under *duplicated* only duplicates count as carriers; "all single" pools the other models made by
    hand.
    """
    rows = []
    for instrument in (name for name in (*INSTRUMENTS, USED, USED_TOGETHER) if (cases.instrument == name).any()):
        of_instrument = cases[cases.instrument == instrument]
        single = ~of_instrument.condition.isin(["duplicated", TRAINED])
        groups = {c: of_instrument[of_instrument.condition == c] for c in (*CONDITIONS, TRAINED)}
        groups[POOLED] = of_instrument[single]
        for condition, group in groups.items():
            if group.empty:
                continue
            if condition == "duplicated":
                group = group[group.truth != "carrier"]
            keys = {"instrument": instrument, "condition": condition}
            rows += [{**keys, **row} for row in _rates(group)]
    return pd.DataFrame(rows)


def _rates(cases: pd.DataFrame) -> list[dict[str, object]]:
    """The rates of an instrument under a condition; those that rest on no case are left out."""
    is_carrier = cases.truth.isin(["carrier", "duplicate"])
    wrong = {
        "false_positive": cases.claimed[~is_carrier],
        "false_positive_decoy": cases.claimed[cases.truth == "decoy"],
        "false_negative": ~cases.claimed[is_carrier],
    }
    rows: list[dict[str, object]] = []
    if 0 < is_carrier.sum() < len(cases):
        model = cases.groupby(["fragment", "condition", "seed"]).ngroup().to_numpy()
        estimate, low, high = _auroc(cases.score.to_numpy(), is_carrier.to_numpy(), model)
        rows.append({"rate": "auroc", "estimate": estimate, "low": low, "high": high, "n": len(cases)})
    return rows + [share_row(name, int(part.sum()), len(part)) for name, part in wrong.items() if len(part)]


def share_row(rate: str, count: int, n: int) -> dict[str, object]:
    """A row of the table of rates: a share with Wilson's interval."""
    low, high = wilson(count, n)
    return {"rate": rate, "estimate": count / n, "low": float(low), "high": float(high), "n": n}


def auroc(score: np.ndarray, is_carrier: np.ndarray) -> float:
    """The chance that a carrier scores above another case, ties counting half; NaN where there is none of either."""
    n, total = int(is_carrier.sum()), len(score)
    if n in (0, total):
        return float("nan")
    return float((rankdata(score)[is_carrier].sum() - n * (n + 1) / 2) / (n * (total - n)))


def _auroc(score: np.ndarray, is_carrier: np.ndarray, model: np.ndarray) -> tuple[float, float, float]:
    """The AUROC and its 95 % interval, models resampled: where it is perfect, down to Wilson's bound of as many cases
    as there are carriers."""
    rng = generator("calibration, models resampled", 0)
    rows_of = [np.flatnonzero(model == k) for k in np.unique(model)]
    draws = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([rows_of[k] for k in rng.integers(0, len(rows_of), len(rows_of))])
        draws.append(auroc(score[rows], is_carrier[rows]))
    estimate = auroc(score, is_carrier)
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    if estimate == 1:
        low = min(low, wilson(int(is_carrier.sum()), int(is_carrier.sum()))[0])
    return estimate, float(low), float(high)


def erasure_rates(refits: pd.DataFrame) -> pd.DataFrame:
    """How often a probe that is fitted anew still reads X: a row per (method, probe), rate `still_read`."""
    rows = []
    for (method, probe), part in refits.groupby(["method", "probe"], sort=False):
        row = share_row("still_read", int(part.reads.sum()), len(part))
        rows.append({"instrument": f"erased: {method}", "condition": f"refitted: {probe}", **row})
    return pd.DataFrame(rows)


def unused_rates(cases: pd.DataFrame) -> pd.DataFrame:
    """How often X as a whole is called unused (rate `false_unused`), and how often it is not where only cells that
    carry nothing were tested (`missed_unused`), by condition: rows of the study's table of rates."""
    rows = []
    whole = cases[cases.instrument == UNUSED]
    groups = list(whole.groupby("condition", sort=False))
    single = whole[~whole.condition.isin(["duplicated", TRAINED])]
    for condition, part in [*groups, *([(POOLED, single)] if len(single) else [])]:
        is_null = part.truth == "null"
        for rate, wrong in (("false_unused", part.claimed[~is_null]), ("missed_unused", ~part.claimed[is_null])):
            row = share_row(rate, int(wrong.sum()), len(wrong))
            rows.append({"instrument": UNUSED, "condition": condition, **row})
    return pd.DataFrame(rows)
