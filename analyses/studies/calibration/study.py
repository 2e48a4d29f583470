"""Does each instrument find what carries a value, and nothing else?

Transformers are made by hand (`planted`) or trained to a circuit (`trained`), so that the truth is known; each
instrument (`instruments`, `judgements`) says of every case whether it carries the value; what it gets wrong is counted
(`rates`). What erasure promises is held against probes fitted anew (`guarantee`), and the search for subspaces against
a task whose variables are known (`alignment`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from analyses.studies.calibration import alignment, guarantee
from analyses.studies.calibration.instruments import INSTRUMENTS, ONLY_UNDER, Programs
from analyses.studies.calibration.judgements import UNUSED, USED, USED_TOGETHER, judgements
from analyses.studies.calibration.planted import CONDITIONS, combinations, plant
from analyses.studies.calibration.rates import POOLED, erasure_rates, rates, unused_rates
from analyses.studies.calibration.trained import TRAINED, plant_trained
from cadmus.runtime.checks import check_at_least
from cadmus.runtime.progress import Progress, no_progress
from cadmus.runtime.threads import on_threads

MIN_AUROC = 0.95
MAX_FALSE = 0.05  # the rate of errors that is allowed, at its estimate
MIN_NULL = 200  # cases that a rate of false positives rests on
NETWORKS = 2  # of either kind that solve hierarchical equality
MIN_ALIGNMENT = 0.99  # of a linear search for the variables of hierarchical equality
MAX_NEURON = 0.75  # of a single neuron there
MAX_FLOOR = 0.6  # of a search on a network that is not trained, or for arbitrary labels; 0.5 is chance


@dataclass(frozen=True)
class CalibrationConfig:
    """How many models are planted, and on how many programs each is tried."""

    models: int = 3
    """Models of each fragment under each condition; of those duplicated or trained, which have one fragment, three
    times as many. Verdicts are given of the first of each, and of all that are trained."""
    pairs: int = 32
    """Pairs of programs for each model."""
    fit: int = 400
    """Programs of each model that directions and erasers are fitted to."""
    seed: int = 0
    """Seed of the models and the programs."""
    quick: bool = False
    """One model of each, for a look: the rates then rest on few cases."""

    def __post_init__(self) -> None:
        check_at_least(self, 1, "models")
        check_at_least(self, 20, "pairs")
        check_at_least(self, 100, "fit")
        check_at_least(self, 0, "seed")

    @property
    def models_made(self) -> int:
        """Models of each fragment under each condition, as they are made."""
        return 1 if self.quick else self.models


@dataclass(frozen=True)
class CalibrationResults:
    """What the instruments said of every case, and how often they were wrong."""

    config: CalibrationConfig
    """What was measured."""
    cases: pd.DataFrame
    """A row per (instrument, condition, fragment, seed, case): truth, score, low and claimed."""
    rates: pd.DataFrame
    """A row per (instrument, condition, rate), as `rates` gives them."""
    refits: pd.DataFrame
    """A row per (condition, fragment, seed, case, method, probe), as `guarantee.refits` gives them."""
    others: dict[str, pd.DataFrame]
    """The tables of `OTHER_INSTRUMENTS`, by name."""
    targets: pd.DataFrame
    """A row per figure that calibration must reach: name, expected, result, passed."""


def _equality(config: CalibrationConfig, progress: Progress) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The search for subspaces on hierarchical equality."""
    table = alignment.search(1 if config.quick else NETWORKS, config.seed, progress)
    return table, alignment.rates(table)


OTHER_INSTRUMENTS: dict[str, Callable[[CalibrationConfig, Progress], tuple[pd.DataFrame, pd.DataFrame]]] = {
    "equality": _equality
}
"""Instruments that are calibrated on truths of their own: name -> (config, progress) -> (table, rows of `rates`)."""


def run(config: CalibrationConfig, progress: Progress = no_progress) -> CalibrationResults:
    """Plant the models, try every instrument on each, and count."""
    jobs = [
        (fragment, condition, config.seed * 1000 + k, k == 0 or condition == TRAINED)
        for fragment, condition in [*combinations(), ("lookup", TRAINED)]
        for k in range(config.models_made * (3 if condition in ("duplicated", TRAINED) else 1))
    ]
    progress("planted models", 0.0, "")
    parts = on_threads(partial(_try_one, config), jobs, "planted models", progress)
    cases, refits = (pd.concat(part, ignore_index=True) for part in zip(*parts, strict=True))
    others = {name: instrument(config, progress) for name, instrument in OTHER_INSTRUMENTS.items()}
    counted = [rates(cases), erasure_rates(refits), unused_rates(cases), *(rows for _, rows in others.values())]
    table = pd.concat(counted, ignore_index=True)
    tables = {name: detail for name, (detail, _) in others.items()}
    return CalibrationResults(config, cases, table, refits, tables, targets(table))


def _try_one(
    config: CalibrationConfig, fragment: str, condition: str, seed: int, judged: bool
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The cases of every instrument on one model, the verdicts' where it is to be judged, and the refitted probes."""
    planted = plant_trained(seed) if condition == TRAINED else plant(fragment, condition, seed)
    programs = Programs.draw(planted, config.pairs, config.fit)
    keys = {"condition": condition, "fragment": fragment, "seed": seed}
    cases = [
        instrument(planted, programs).assign(instrument=name)
        for name, instrument in INSTRUMENTS.items()
        if condition in ONLY_UNDER.get(name, (*CONDITIONS, TRAINED))
    ]
    if judged:
        cases.append(judgements(planted))
    refits = guarantee.refits(planted, programs).assign(**keys)
    return pd.concat(cases, ignore_index=True).assign(**keys), refits


# --- targets ---------------------------------------------------------------------------------------------------------


def targets(table: pd.DataFrame) -> pd.DataFrame:
    """The figures that calibration must reach, held against the table of rates: name, expected, result, passed."""
    rows = []

    def add(name: str, expected: str, rate: str, holds: Callable[[pd.Series], bool], **keys: str) -> None:
        part = table[(table.rate == rate) & np.logical_and.reduce([table[k] == v for k, v in keys.items()])]
        if len(part):
            row = part.iloc[0]
            result = f"{row.estimate:.3f} [{row.low:.3f}, {row.high:.3f}], n = {row.n}"
            rows.append({"name": name, "expected": expected, "result": result, "passed": bool(holds(row))})

    single = [condition for condition in CONDITIONS if condition != "duplicated"]
    for instrument in ("patch a cell", "block an edge"):
        for condition in (*single, TRAINED):
            keys = {"instrument": instrument, "condition": condition}
            expected = f"AUROC {MIN_AUROC} or more"
            add(f"{instrument}, {condition}", expected, "auroc", lambda row: row.estimate >= MIN_AUROC, **keys)
        expected = f"at most {MAX_FALSE:.0%} false claims"
        for condition in (POOLED, TRAINED):
            keys = {"instrument": instrument, "condition": condition}
            name = f"{instrument}, no carrier" + (f", {TRAINED}" if condition == TRAINED else "")
            add(name, expected, "false_positive", lambda row: row.estimate <= MAX_FALSE, **keys)
    missed, joint = "at least 95 % missed", "at most 5 % missed"
    for instrument, expected in (
        ("patch a cell", missed),
        ("patch two cells", joint),
        ("block an edge", missed),
        ("block a query", joint),
    ):
        holds = (lambda row: row.estimate >= 0.95) if expected == missed else (lambda row: row.estimate <= MAX_FALSE)
        keys = {"instrument": instrument, "condition": "duplicated"}
        add(f"{instrument}, duplicates", expected, "false_negative", holds, **keys)
    _add_verdicts(add)
    for probe in guarantee.PROBES:
        keys = {"condition": f"refitted: {probe}"}
        more = "within 1 point of the majority, always"
        add(f"LEACE, {probe}", more, "still_read", lambda row: row.estimate == 0, instrument="erased: LEACE", **keys)
        unerased = {"instrument": "erased: none", **keys}
        add(f"nothing erased, {probe}", "read, always", "still_read", lambda row: row.estimate == 1, **unerased)
    _add_alignment(add)
    return pd.DataFrame(rows)


def _add_verdicts(add: Callable[..., None]) -> None:
    """What is asked of the words *used* and *unused*."""
    at_most = f"at most {MAX_FALSE:.0%}"

    def holds(row: pd.Series) -> bool:
        return bool(row.estimate <= MAX_FALSE)

    for condition in (POOLED, TRAINED):
        keys = {"instrument": USED, "condition": condition}
        add(f"false *used*, {condition}", at_most, "false_positive", holds, **keys)
        add(f"missed *used*, {condition}", at_most, "false_negative", holds, **keys)
    keys = {"condition": "duplicated"}
    add(
        "missed *used*, duplicates, one",
        "at least 95 %",
        "false_negative",
        lambda row: row.estimate >= 0.95,
        instrument=USED,
        **keys,
    )
    add("missed *used*, duplicates, several", at_most, "false_negative", holds, instrument=USED_TOGETHER, **keys)
    for condition in (*CONDITIONS, TRAINED):
        add(
            f"false *unused*, {condition}",
            "never",
            "false_unused",
            lambda row: row.estimate == 0,
            instrument=UNUSED,
            condition=condition,
        )


def _add_alignment(add: Callable[..., None]) -> None:
    """What is asked of the search for subspaces."""
    for condition in (alignment.HAND, alignment.TRAINED):
        for method, bound, is_least in (
            ("search", MIN_ALIGNMENT, True),
            ("one neuron", MAX_NEURON, False),
            ("untrained", MAX_FLOOR, False),
            ("arbitrary labels", MAX_FLOOR, False),
        ):
            keys = {"instrument": f"subspace: {method}", "condition": condition}

            def holds(row: pd.Series, bound: float = bound, is_least: bool = is_least) -> bool:
                return bool(row.estimate >= bound if is_least else row.estimate <= bound)

            words = f"{bound} or more" if is_least else f"{bound} at most"
            add(f"{method}, {condition}", words, alignment.RATE, holds, **keys)
