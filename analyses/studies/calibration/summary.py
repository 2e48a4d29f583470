"""The first sentences of the page about calibration, in statements that its tables support."""

from __future__ import annotations

import pandas as pd

from analyses.reporting import report
from analyses.studies.calibration import alignment
from analyses.studies.calibration.judgements import UNUSED, USED
from analyses.studies.calibration.rates import POOLED
from analyses.studies.calibration.study import MIN_NULL, CalibrationResults
from analyses.studies.calibration.trained import TRAINED


def summary(results: CalibrationResults) -> tuple[str, ...]:
    """Whether calibration reaches its figures, and what each instrument gets wrong."""
    targets, rates = results.targets, results.rates
    failed = targets[~targets.passed]
    reached = f"{int(targets.passed.sum())} of {len(targets)} figures that calibration must reach are reached"
    failures = "; ".join(f"{row.name_}: {row.result}, not {row.expected}" for row in _rows(failed))
    score = alignment.RATE
    cell = _text(rates, "patch a cell", POOLED, "auroc")
    edge = _text(rates, "block an edge", POOLED, "auroc")
    few = rates[(rates.rate == "false_positive") & rates.condition.isin([POOLED, TRAINED]) & (rates.n < MIN_NULL)]
    sentences = [
        f"{reached}{': ' + failures if failures else ''}.",
        f"Exact patching tells the cells that carry the value from all others with AUROC {cell}, blocking edges those "
        f"that move it with {edge}; of cases that carry nothing they claim "
        f"{_text(rates, 'patch a cell', POOLED, 'false_positive')} and "
        f"{_text(rates, 'block an edge', POOLED, 'false_positive')}.",
        "Where the value lies at three positions, patching one misses "
        f"{_text(rates, 'patch a cell', 'duplicated', 'false_negative')} of them, patching two "
        f"{_text(rates, 'patch two cells', 'duplicated', 'false_negative')}.",
        f"In models of ours that are trained to a circuit, patching has AUROC "
        f"{_text(rates, 'patch a cell', TRAINED, 'auroc')} and claims "
        f"{_text(rates, 'patch a cell', TRAINED, 'false_positive')} of the cells that carry nothing.",
        f"The verdict *used* is given to {_text(rates, USED, POOLED, 'false_positive')} of the cells that carry "
        f"nothing and missed in {_text(rates, USED, POOLED, 'false_negative')} of the carriers; in trained models: "
        f"{_text(rates, USED, TRAINED, 'false_positive')} and {_text(rates, USED, TRAINED, 'false_negative')}.",
        f"X as a whole is called *unused*, wrongly, in {_text(rates, UNUSED, POOLED, 'false_unused')} of the models "
        "made by hand; tested only at cells that carry nothing, where the word is right, it is not called so in "
        f"{_text(rates, UNUSED, POOLED, 'missed_unused')}.",
        "On hierarchical equality a linear search scores "
        f"{_text(rates, 'subspace: search', alignment.TRAINED, score)} in trained networks, the best neuron "
        f"{_text(rates, 'subspace: one neuron', alignment.TRAINED, score)}, a search with arbitrary labels "
        f"{_text(rates, 'subspace: arbitrary labels', alignment.TRAINED, score)}, one in networks of random weights "
        f"{_text(rates, 'subspace: untrained', alignment.TRAINED, score)} (chance: 0.5).",
        "A probe without an intervention would call used what is not in "
        f"{_text(rates, 'read (no intervention)', POOLED, 'false_positive')} of the cells that carry nothing.",
        "After LEACE a refitted logistic probe is more than a point above the majority in "
        f"{_text(rates, 'erased: LEACE', 'refitted: logistic', 'still_read')} of the cells, before it in "
        f"{_text(rates, 'erased: none', 'refitted: logistic', 'still_read')}.",
    ]
    if len(few):
        those = ", ".join(f"{row.instrument} ({row.condition})" for row in few.itertuples())
        sentences.append(f"Rates of false claims rest on fewer than {MIN_NULL} cases: {those}.")
    return tuple(sentences)


def _rows(table: pd.DataFrame) -> list:
    return list(table.rename(columns={"name": "name_"}).itertuples())


def _text(rates: pd.DataFrame, instrument: str, condition: str, rate: str) -> str:
    """A rate with its interval, `0.99 [0.98, 1.00]`; "(not measured)" where it is absent."""
    rows = rates[(rates.instrument == instrument) & (rates.condition == condition) & (rates.rate == rate)]
    if rows.empty:
        return "(not measured)"
    row = rows.iloc[0]
    return report.with_interval(row.estimate, row.low, row.high)
