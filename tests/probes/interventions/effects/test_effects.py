"""The table of effects, held against what is counted by hand and against planted truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from probes.interventions.effects.effects import effects
from tests.probes.interventions.effects.planted_outcomes import CELLS, planted

RATES = {(1, "arose"): 0.8, (2, "stored"): 0.4}


def test_every_figure_is_what_counting_gives() -> None:
    rng = np.random.default_rng(0)
    mask = rng.random((len(CELLS), 300)) < 0.8
    outcomes = planted(
        rates=RATES,
        mask=mask,
        kinds=np.where(np.arange(300) % 3 == 0, "minimal", "discriminating"),
        strata=np.where(np.arange(300) % 2 == 0, "literal", "computed"),
        shifted=np.arange(300) >= 280,
        canonical=rng.random((len(CELLS), 300)) < 0.5,
        moved=rng.uniform(-1, 1, (len(CELLS), 300)),
        changed=rng.random((len(CELLS), 300)) < 0.7,
        labels={"model": "tiny"},
    )
    table = effects(outcomes, resamples=200)
    assert len(table) == 8 * len(CELLS)  # two kinds, two strata, shifted or not
    assert set(table["model"]) == {"tiny"}
    rows = table[(table["kind"] == "discriminating") & ~table["shifted"] & (table["stratum"] == "computed")]
    pairs = (np.arange(300) % 3 != 0) & (np.arange(300) % 2 == 1) & (np.arange(300) < 280)
    for i, row in enumerate(rows.to_dict("records")):
        candidates = mask[i] & pairs
        counted = candidates & outcomes.counts
        assert (row["layer"], row["role"], row["span"]) == tuple(CELLS.iloc[i])
        assert (row["candidates"], row["pairs"]) == (candidates.sum(), counted.sum())
        assert row["accuracy"] == pytest.approx(outcomes.success[i, counted].mean())
        assert row["accuracy_low"] < row["accuracy"] < row["accuracy_high"] or row["accuracy"] in (0, 1)
        for name in ("canonical", "moved", "changed", "damage"):
            assert row[name] == pytest.approx(getattr(outcomes, name)[i, counted].mean()), name
        assert row["chance"] == pytest.approx(0.1)
        assert row["untrained"] == pytest.approx(outcomes.untrained[i, candidates].mean())
        assert row["untrained_n"] == candidates.sum()
        controls = {name: success[i, counted].mean() for name, success in outcomes.controls.items()}
        controls["untrained"] = outcomes.untrained[i, counted].mean()
        for name in outcomes.controls:
            assert row[name] == pytest.approx(controls[name])
        assert controls[row["best_control"]] == max(controls.values())
        assert row["d"] == pytest.approx(row["accuracy"] - max(controls.values()))
        assert row["d_low"] <= row["d"] <= row["d_high"]


def test_counts_may_differ_by_role() -> None:
    counts = np.random.default_rng(1).random((len(CELLS), 300)) < 0.5
    table = effects(planted(counts=counts), resamples=100)
    assert table["pairs"].tolist() == counts.sum(1).tolist()


@pytest.mark.parametrize(
    "skeletons", [200, pytest.param(60, marks=pytest.mark.slow), pytest.param(100_000, marks=pytest.mark.slow)]
)
def test_bounds_of_d_cover_the_truth_though_the_best_control_is_chosen(skeletons: int) -> None:
    """All cells at once in 95 % of data sets, where three equal controls and the twin compete to be the best one.

    200 data sets: 4 standard errors are 6 %.
    """
    rates = {(1, "arose"): 0.8, (2, "stored"): 0.4, (3, "loaded"): 0.08}
    truth = np.array([rates.get((cell.layer, cell.role), 0.03) - 0.03 for cell in CELLS.itertuples()])
    covered = 0
    for seed in range(200):
        table = effects(planted(seed, rates, skeletons=skeletons), seed, resamples=300)
        covered += ((table["d_low"] <= truth) & (truth <= table["d_high"])).all()
    assert covered / 200 >= 0.90


def test_intervals_of_the_accuracy_cover_it() -> None:
    covered = []
    for seed in range(60):
        table = effects(planted(seed, RATES, skeletons=80), resamples=10)
        truth = [RATES.get((cell.layer, cell.role), 0.03) for cell in CELLS.itertuples()]
        covered.append((table["accuracy_low"] <= truth) & (truth <= table["accuracy_high"]))
    assert 0.92 <= np.mean(covered) <= 0.995


def test_a_pair_without_a_control_has_no_part_in_it() -> None:
    outcomes = planted(rates=RATES)
    third = outcomes.controls["third_value"].astype(float)
    third[:, :100] = np.nan
    has = outcomes.counts & (np.arange(300) >= 100)
    table = effects(replace(outcomes, controls={**outcomes.controls, "third_value": third}), resamples=100)
    assert np.allclose(table["third_value"], [third[i, has].mean() for i in range(len(CELLS))])
    success = outcomes.success.astype(float)
    others = [*outcomes.controls.values(), outcomes.untrained]
    least = np.min([(success - c)[:, outcomes.counts].mean(1) for c in others[1:]], axis=0)
    assert np.allclose(table["d"], np.minimum(least, (success - third)[:, has].mean(1)))
    assert (table["clusters"] > 100).all()
    third[:] = np.nan
    table = effects(replace(outcomes, controls={**outcomes.controls, "third_value": third}), resamples=100)
    assert table["third_value"].isna().all()
    assert np.allclose(table["d"], least)
    assert (table["d_low"] > 0.05).sum() == 3


def test_a_cell_whose_controls_were_not_run_is_never_above() -> None:
    controlled = np.ones(len(CELLS), bool)
    controlled[CELLS["layer"] == 1] = False
    table = effects(planted(rates=RATES, controlled=controlled), resamples=100)
    assert (table[["p_above", "p_alone"]][~controlled] == 1).all(axis=None)
    assert (table["p_above"] <= 0.05).sum() == 2
    assert planted(controlled=controlled).select(np.arange(9)).has_controls().tolist() == controlled.tolist()


def test_where_nothing_counts_the_row_says_so_and_has_no_zero() -> None:
    table = effects(planted(counts=np.zeros(300, bool)), resamples=50)
    assert (table["pairs"] == 0).all()
    assert table[["accuracy", "d", "d_low", "d_high", "third_value", "damage"]].isna().all(axis=None)
    assert table["note"].str.contains("none of 300 pairs counts: the model's own completion is never true").all()
    assert (table["untrained_n"] == 300).all()  # the twin drops that condition
    assert table["best_control"].isna().all()
    mask = np.ones((len(CELLS), 300), bool)
    mask[2] = False
    table = effects(planted(mask=mask), resamples=50)
    assert table["note"][2] == "no pair has this role"
    assert np.isnan(table["d"][2])
    assert (table["note"].drop(2) == "").all()


def test_a_seed_fixes_the_table_and_it_survives_parquet(tmp_path) -> None:
    first = effects([planted(rates=RATES), planted(variable="reg.b")], seed=3, resamples=100)
    again = effects([planted(rates=RATES), planted(variable="reg.b")], seed=3, resamples=100)
    pd.testing.assert_frame_equal(first, again)
    assert first["variable"].unique().tolist() == ["reg.a", "reg.b"]
    first.to_parquet(tmp_path / "effects.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "effects.parquet"), first, check_dtype=False)


def test_what_does_not_fit_is_told() -> None:
    with pytest.raises(ValueError, match=r"success has shape \(2, 300\); expected \(16, 300\) \(16 cells, 300 pairs\)"):
        planted(success=np.zeros((2, 300), bool))
    with pytest.raises(ValueError, match=r"controls\['random'\] has shape \(300,\)"):
        planted(controls={"random": np.zeros(300, bool)})
    with pytest.raises(ValueError, match="kinds: 'similar' is none of minimal, discriminating"):
        planted(kinds=np.full(300, "similar"))
    with pytest.raises(ValueError, match="cells have no column role"):
        replace(planted(), cells=CELLS.drop(columns="role"))
    with pytest.raises(ValueError, match="give the untrained twin's successes as `untrained`"):
        planted(controls={"untrained": np.zeros((len(CELLS), 300), bool)})
    with pytest.raises(ValueError, match=r"reg\.a has no control"):
        effects(planted(controls={}))
    with pytest.raises(ValueError, match=r"reg\.a has no pairs"):
        effects(planted().select(np.zeros(300, bool)))


def test_selected_pairs_are_a_smaller_set_of_outcomes() -> None:
    outcomes = planted(rates=RATES)
    part = outcomes.select(np.arange(300) < 100)
    assert part.success.shape == (len(CELLS), 100)
    assert part.chance.shape == (100,)
    assert np.array_equal(part.controls["random"], outcomes.controls["random"][:, :100])
    assert replace(part, variable="reg.b").variable == "reg.b"
