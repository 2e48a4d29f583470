"""Instruments on planted models: they claim what carries the value, and nothing else; duplicates need two at once."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
import transformer_lens

from analyses.studies.calibration import guarantee
from analyses.studies.calibration.instruments import INSTRUMENTS, Programs, truth
from analyses.studies.calibration.planted import Planted, plant

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning")]
if not hasattr(transformer_lens, "HookedTransformer"):
    pytest.skip("this transformer-lens has no HookedTransformer", allow_module_level=True)


@cache
def made(condition: str = "decoys", fragment: str = "lookup") -> tuple[Planted, Programs]:
    planted = plant(fragment, condition, 1)
    return planted, Programs.draw(planted, pairs=24, fit=300)


def run(instrument: str, condition: str = "decoys", fragment: str = "lookup") -> pd.DataFrame:
    return INSTRUMENTS[instrument](*made(condition, fragment))


@pytest.mark.parametrize("fragment", ["lookup", "compare", "running"])
def test_programs_count(fragment):
    planted, programs = made("decoys", fragment)
    assert len(programs.base) == 24
    assert (programs.answers == planted.answers(programs.base)).all()
    assert (programs.answers != programs.edited).all()
    column = planted.form.index("0")
    assert planted.slot == 0 or fragment == "lookup"
    if planted.slot == 0:
        assert (programs.same[:, column] == programs.base[:, column]).all()
        assert (programs.source[:, column] == programs.values).all()
        edited = programs.base.copy()
        edited[:, column] = programs.values
        assert (planted.answers(edited) == programs.edited).all()


@pytest.mark.parametrize(
    ("instrument", "fragment"),
    [
        ("patch a cell", "lookup"),
        ("patch a cell", "compare"),
        ("steer", "lookup"),
        ("steer", "compare"),
        ("steer along covariance", "lookup"),
        ("block an edge", "lookup"),
        ("block an edge", "compare"),
    ],
)
def test_an_instrument_claims_carriers_alone(instrument, fragment):
    cases = run(instrument, fragment=fragment)
    assert set(cases.columns) == {"case", "truth", "score", "low", "claimed"}
    assert {"carrier", "null"} <= set(cases.truth)
    assert cases.claimed[cases.truth == "carrier"].all()
    assert not cases.claimed[cases.truth.isin(["null", "decoy"])].any()
    assert (cases.low <= cases.score).all()


def test_reading_calls_decoys_what_an_intervention_does_not():
    cases = run("read (no intervention)")
    assert cases.claimed[cases.truth == "decoy"].all()
    erased = run("erase")
    assert not erased.claimed[erased.truth == "decoy"].any()


@pytest.mark.parametrize(("one", "several"), [("patch a cell", "patch two cells"), ("block an edge", "block a query")])
def test_duplicates_are_missed_one_by_one_and_come_out_together(one, several):
    single, joint = run(one, "duplicated"), run(several, "duplicated")
    assert (single.truth == "duplicate").sum() >= 3
    assert not single.claimed[single.truth == "duplicate"].any()
    assert joint.claimed[joint.truth == "duplicate"].all()
    assert not joint.claimed[joint.truth == "null"].any()


def test_the_truth_of_a_set_of_cells():
    planted, _ = made("duplicated")
    first, second, *_ = sorted(planted.duplicates)
    assert truth(planted, [first]) == truth(planted, [first, second]) == "duplicate"
    (null,) = [c for c in planted.cells if truth(planted, [c]) == "null"][:1]
    assert truth(planted, [first, null]) == "null", "it is outvoted, whatever else is patched"
    assert truth(planted, [next(iter(planted.carriers)), first]) == "carrier"
    assert truth(planted, [next(iter(planted.decoys))]) == "decoy"


def test_erasure_keeps_its_promise_and_what_is_not_erased_is_read():
    table = guarantee.refits(*made())
    assert set(table.method) == set(guarantee.ERASERS)
    assert table.reads[table.method == "none"].all()
    assert table.reads[table.method == "random"].all()
    assert not table.reads[table.method == "LEACE"].any()
    change = table.groupby("method").change.mean()
    assert change["LEACE"] <= change["mean projection"] + 1e-9


def test_a_tie_of_the_most_frequent_values_is_broken():
    y = np.array([0, 1, 1, 2, 2, 0])
    left = y[guarantee._without_tie(y)]
    assert sorted(np.bincount(left)) == [1, 1, 2]
    assert guarantee._without_tie(np.array([0, 1, 1])).all()
