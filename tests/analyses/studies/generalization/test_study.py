"""The study of generalization on planted sweeps: effects, hypotheses, what is missing, the inner state."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import statsmodels.formula.api as smf

from analyses.studies.generalization import models, study
from analyses.studies.generalization.effects import ALONE, GIVEN, JOINT, bounds_of_missing, doubt, effects
from analyses.studies.generalization.inner_state import (
    ACROSS,
    BEYOND,
    OWN,
    OWN_AND_BASE,
    WITHIN,
    claimed,
    inner_state,
    remainders,
)
from analyses.studies.generalization.levels import cells, factor_of, medians, rank_correlations
from analyses.studies.generalization.missing import missingness
from analyses.studies.generalization.models import BASE
from analyses.studies.generalization.study import GeneralizationConfig, GeneralizationResults
from tests.sweep_tables import INSIDE, RESPONSE, STATE, Planted, covered, covered_state, table_of

LARGE = Planted((4, 3), effect=0.1, spread=0.02)
CONFIG = GeneralizationConfig("nowhere", draws=399)


def hypothesis(predictor: str = "p0", expected: str = "positive", **words: str) -> dict[str, str]:
    return {"response": RESPONSE, "predictor": predictor, "expected": expected, **words}


def analyze(table: pd.DataFrame, *hypotheses: dict[str, str]) -> GeneralizationResults:
    return study.analyze(table, {"name": "planted", "hypotheses": list(hypotheses)}, CONFIG)


@cache
def large() -> GeneralizationResults:
    return analyze(
        table_of(LARGE, 0),
        hypothesis(name="there"),
        hypothesis(expected="negative", name="the other way"),
        hypothesis("p1", name="nothing"),
        {"response": RESPONSE, "predictor": "property.p0", "expected": "positive"},
        hypothesis("p1", "none", name="none"),
    )


def row_of(table: pd.DataFrame, **where: str) -> pd.Series:
    (row,) = table[np.all([table[name] == value for name, value in where.items()], axis=0)].to_dict("records")
    return pd.Series(row)


# --- effects ---------------------------------------------------------------------------------------------------------


def test_the_planted_effect_is_found_and_the_absent_one_is_not() -> None:
    there = row_of(large().effects, response=RESPONSE, predictor="property.p0", model=JOINT)
    assert there.low < 0.1 < there.high
    assert 0 < there.robust_low < there.robust_high
    assert 0 < there.wild_low < there.wild_high
    assert max(there.p, there.robust_p, there.wild_p, there.q) < 0.01
    assert there.partial_r2 > 0.5
    assert there.left_out_r2 > 0.3
    assert 1 <= there.inflation < 1.5
    absent = row_of(large().effects, response=RESPONSE, predictor="property.p1", model=JOINT)
    assert absent.low < 0 < absent.high
    assert (there.models, there.missing, there.cells, there.seeds) == (60, 0, 12, 5)


def test_an_effect_is_that_of_least_squares_with_seeds_as_blocks() -> None:
    table = table_of(LARGE, 1)
    part = table[table.response == RESPONSE]
    fitted = effects(models.check(part), [models.resolve(part, "p0")], draws=99)
    p0 = part["property.p0"]
    frame = pd.DataFrame({"y": part.value, "z": (p0 - p0.mean()) / p0.std(ddof=0), "seed": part.seed})
    assert fitted.effect.iloc[0] == pytest.approx(smf.ols("y ~ z + C(seed)", frame).fit().params["z"], rel=0.02)


def test_wide_ranges_count_in_powers_of_ten() -> None:
    table = table_of(LARGE, 0).assign(**{"property.wide": lambda t: 10.0 ** t["property.p0"]})
    predictor = models.resolve(table, "wide")
    assert predictor.logarithmic
    by_log = effects(models.check(table), [predictor], draws=99)
    plain = effects(models.check(table), [models.resolve(table, "p0")], draws=99)
    assert np.allclose(by_log.effect, plain.effect)
    assert set(by_log.scale) == {"log10"}


def test_predictors_that_go_together_are_not_told_apart() -> None:
    rng = np.random.default_rng(0)
    table = table_of(LARGE, 0)
    table["property.p1"] = table["property.p0"] + 0.02 * rng.normal(size=len(table))
    fitted = effects(models.check(table), [models.resolve(table, name) for name in ("p0", "p1")], draws=99)
    assert (fitted.loc[fitted.model == JOINT, "inflation"] > 100).all()
    assert (fitted.loc[fitted.model == JOINT, "condition"] > 10).all()
    (answer,) = analyze(table, hypothesis(), hypothesis("p1")).hypotheses.iloc[:1].itertuples()
    assert answer.verdict == "undecided"
    table["property.p1"] = 2 * table["property.p0"]
    fitted = effects(models.check(table), [models.resolve(table, name) for name in ("p0", "p1")], draws=99)
    assert fitted.loc[fitted.model == JOINT, "why"].str.contains("cannot be told apart").all()
    assert fitted.loc[fitted.model == ALONE, "effect"].notna().all()


def test_a_response_that_never_varies_says_so() -> None:
    table = table_of(LARGE, 0)
    table.loc[table.response == RESPONSE, "value"] = 1.0
    row = row_of(analyze(table, hypothesis()).effects, response=RESPONSE, predictor="property.p0")
    assert row.why == f"{RESPONSE} is the same in all models"


def test_too_few_cells_for_the_predictors() -> None:
    table = table_of(Planted((3,), 0.1, 0.0), 0).assign(**{"property.p1": lambda t: np.sin(40 * t["property.p0"])})
    fitted = effects(models.check(table), [models.resolve(table, name) for name in ("p0", "p1")], draws=99)
    assert fitted.loc[fitted.model == JOINT, "why"].str.contains("3 cells have .* needs 4 or more").all()


# --- hypotheses ------------------------------------------------------------------------------------------------------


def test_hypotheses_are_answered_one_by_one() -> None:
    verdicts = large().hypotheses.set_index("name").verdict
    assert verdicts["there"] == "supported"
    assert verdicts["the other way"] == "contradicted"
    assert verdicts["nothing"] == "undecided"
    assert verdicts[f"property.p0 on {RESPONSE}"] == "supported", "the other way of writing one"
    assert verdicts["none"] in ("supported", "undecided")
    assert large().hypotheses.why.str.len().gt(0).all()


def test_none_is_supported_where_the_interval_is_narrow() -> None:
    table = table_of(replace(LARGE, spread=0.0), 0)
    answer = analyze(table, hypothesis(), hypothesis("p1", "none")).hypotheses.iloc[1]
    assert answer.verdict == "supported"
    (answer,) = analyze(table_of(LARGE, 0), hypothesis("p0", "none")).hypotheses.itertuples()
    assert answer.verdict == "contradicted"


def test_missing_values_that_could_turn_the_sign_leave_it_undecided() -> None:
    table = table_of(LARGE, 0)
    chosen_rows = (table.response == RESPONSE) & (table.factor0 == 0)
    table.loc[chosen_rows, ["status", "why"]] = ["missing", "completion below 0.8"]
    results = analyze(table, hypothesis())
    (answer,) = results.hypotheses.itertuples()
    assert answer.missing == 15
    assert answer.bound_low < 0 < answer.bound_high
    assert answer.verdict == "undecided"
    assert "15 missing values could turn the sign" in answer.why or "the interval holds 0" in answer.why
    counts = row_of(missingness(results.table), response=RESPONSE, cell="cell00")
    assert (counts.models, counts.ok, counts.missing, counts.why) == (5, 0, 5, "completion below 0.8")


def test_a_measured_predictor_is_judged_beside_accuracy_in_distribution() -> None:
    """A response that follows accuracy in distribution alone, as the state does: alone the state tells of it."""
    table = table_of(LARGE, 0)
    values = {name: table.loc[table.response == name, "value"].to_numpy() for name in (RESPONSE, INSIDE, STATE)}
    noise = 0.02 * np.random.default_rng(0).normal(size=len(values[INSIDE]))
    table.loc[table.response == RESPONSE, "value"] = 0.5 + 3 * (values[INSIDE] - 0.7) + noise
    results = analyze(table, hypothesis(STATE))
    where = {"response": RESPONSE, "predictor": STATE}
    assert row_of(results.effects, model=ALONE, **where).low > 0
    given = row_of(results.effects, model=GIVEN, **where)
    assert given.low < 0 < given.high
    (answer,) = results.hypotheses.itertuples()
    assert (answer.model, answer.verdict) == (GIVEN, "undecided")
    assert not (results.effects.predictor == INSIDE).any()
    (answer,) = analyze(table_of(replace(LARGE, state_effect=0.08), 0), hypothesis(STATE)).hypotheses.itertuples()
    assert (answer.model, answer.verdict) == (GIVEN, "supported")


def test_a_response_is_not_regressed_on_a_part_of_itself() -> None:
    table = table_of(LARGE, 0)
    part = table[table.response == STATE].assign(response=f"{STATE}.loaded")
    outcome = analyze(pd.concat([table, part], ignore_index=True), hypothesis(STATE))
    on_state = set(outcome.effects[outcome.effects.predictor == STATE].response)
    assert RESPONSE in on_state
    assert not on_state & {STATE, f"{STATE}.loaded"}


def test_models_that_lack_a_predictor_leave_the_sign_undecided() -> None:
    table = table_of(replace(LARGE, state_effect=0.08), 0)
    lacking = (table.response == STATE) & (table.seed == 0) & (table.factor0 == 0)
    table.loc[lacking, ["status", "why"]] = ["missing", "no pair counts"]
    (answer,) = analyze(table, hypothesis(STATE)).hypotheses.itertuples()
    assert answer.missing == lacking.sum() == 3
    assert (answer.verdict, answer.why) == ("undecided", "3 missing values could turn the sign")


def test_bounds_are_the_least_and_greatest_effects_of_all_that_could_be_missing() -> None:
    table = table_of(LARGE, 3)
    part = models.models(models.check(table), RESPONSE)
    part.loc[[2, 17, 40], "value"] = np.nan
    predictor = models.resolve(table, "p0")
    (bounds,) = bounds_of_missing(part, RESPONSE, (predictor,))
    slopes = []
    for code in range(8):
        values = part.value.copy()
        values[[2, 17, 40]] = [float(code >> k & 1) for k in range(3)]
        frame = models.design(part.assign(value=values), RESPONSE, (predictor,))
        slopes.append(np.linalg.lstsq(frame.x, frame.y, rcond=None)[0][1])
    assert bounds["bound_low"] == pytest.approx(min(slopes))
    assert bounds["bound_high"] == pytest.approx(max(slopes))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": np.inf}, "accuracy.unseen_values = inf (cell cell00, seed 0.0), and says ok; a value"),
        ({"value": np.nan}, "accuracy.unseen_values = nan (cell cell00, seed 0.0), and says ok; a value"),
        ({"value": 7.0}, "accuracy.unseen_values = 7 (cell cell00, seed 0.0), and says ok; a value"),
        ({"status": "done"}, "the status 'done'; there are ok, failed, missing"),
        ({"seed": np.nan}, "1 rows without seed"),
        ({"factor1": np.nan}, "1 rows without factor1"),
    ],
)
def test_a_table_with_a_value_that_is_none_is_refused(change: dict[str, object], message: str) -> None:
    table = table_of(LARGE, 0).astype({"seed": float})
    for name, value in change.items():
        table.loc[0, name] = value
    with pytest.raises(ValueError, match=re.escape(message)):
        models.check(table)


# --- levels, properties, the inner state -----------------------------------------------------------------------------


def test_rank_correlations_are_within_blocks() -> None:
    ranks = rank_correlations(models.check(table_of(LARGE, 0)), draws=199)
    row = row_of(ranks, factor="factor0", response=RESPONSE)
    assert row.rho > 0.8
    assert row.blocks == 15
    assert row.p <= 0.01
    assert 0.005 <= row.p_cells <= 0.05, "levels permuted alike for all seeds, in each of three strata"
    assert set(ranks.factor) == {"factor0", "factor1"}


def test_cells_have_the_spread_of_their_seeds_and_levels_their_medians() -> None:
    table = models.check(table_of(LARGE, 0))
    mine = table[(table.response == RESPONSE) & (table.cell == "cell04")].value
    row = row_of(cells(table), response=RESPONSE, cell="cell04")
    assert (row.factor0, row.factor1, row.models) == (1, 1, 5)
    assert (row.least, row["median"], row.greatest) == (mine.min(), mine.median(), mine.max())
    by_level = medians(table, RESPONSE, "factor0")
    assert list(by_level.index) == [0, 1, 2, 3]
    assert by_level[2] == table[(table.response == RESPONSE) & (table.factor0 == 2)].value.median()
    assert factor_of(table, "property.p0") == factor_of(table, "factor0") == "factor0"
    assert factor_of(table, "property.p1") == "factor1"


def test_which_properties_the_design_moved() -> None:
    table = table_of(LARGE, 0)
    once = table.drop_duplicates(["cell", "seed"]).index
    noise = pd.Series(np.random.default_rng(0).normal(size=len(once)), once)
    keys = table.cell + table.seed.astype(str)
    table["property.chance"] = keys.map(dict(zip(keys[once], noise, strict=True)))
    properties = models.moved_properties(table).set_index("property")
    assert properties.moved.to_dict() == {"property.p0": True, "property.p1": True, "property.chance": False}


def test_the_inner_state_is_found_where_it_is_planted_and_not_where_it_is_not() -> None:
    planted = inner_state(models.check(table_of(replace(LARGE, state_effect=0.08), 0)), draws=199)
    assert list(planted.comparison) == [ACROSS, WITHIN]
    assert (planted.low > 0).all()
    assert (planted.left_out_r2[:1] > planted.left_out_r2_without[:1]).all()
    absent = inner_state(models.check(table_of(LARGE, 0)), draws=199)
    assert (absent.p > 0.01).all()
    left = remainders(models.check(table_of(LARGE, 0)), RESPONSE, STATE)
    assert len(left) == 60
    assert left.response_left.mean() == pytest.approx(0)


def test_a_state_that_follows_accuracy_on_the_base_adds_nothing_to_it() -> None:
    table = models.check(table_of(LARGE, 0))
    inside = table[table.response == INSIDE].reset_index(drop=True)
    rng = np.random.default_rng(0)
    base = rng.normal(0.8, 0.05, len(inside))
    for response, noise in ((STATE, 0.01), (RESPONSE, 0.01)):
        table.loc[table.response == response, "value"] = base + rng.normal(0, noise, len(inside))
    with_base = pd.concat([table, inside.assign(response=BASE, value=base)], ignore_index=True)
    answers = inner_state(with_base, draws=199)
    assert list(answers.comparison + ", " + answers.beyond) == [
        f"{comparison}, {beyond}" for comparison in (ACROSS, WITHIN) for beyond in (OWN, OWN_AND_BASE)
    ]
    assert (answers.low[answers.beyond == OWN] > 0).all(), (
        "beyond the cell's own programs the state seems to tell of it"
    )
    both = answers[answers.beyond == OWN_AND_BASE]
    assert ((both.low < 0) & (both.high > 0)).all()
    assert list(claimed(answers).beyond) == [OWN, OWN]
    results = analyze(with_base, hypothesis(STATE))
    given = row_of(results.effects, response=RESPONSE, predictor=STATE, model=GIVEN)
    assert given.beside == INSIDE, "a hypothesis is about accuracy in distribution, and says so"
    assert given.low > 0
    same = pd.concat([table, inside.assign(response=BASE)], ignore_index=True)
    part = models.models(same, RESPONSE)
    assert models.covariates(part, BEYOND[OWN_AND_BASE], "value", STATE) == [INSIDE], "they say the same"


@pytest.mark.parametrize(("missing", "unanswered"), [(BASE, [OWN_AND_BASE]), (INSIDE, [OWN, OWN_AND_BASE])])
def test_nothing_is_asked_beyond_an_accuracy_that_no_model_has(missing: str, unanswered: list[str]) -> None:
    table = table_of(replace(LARGE, state_effect=0.08, with_base=True), 0)
    table.loc[table.response == missing, ["status", "why"]] = ["missing", "not measured"]
    answers = inner_state(models.check(table), draws=99)
    assert list(dict.fromkeys(answers.beyond[answers.effect.isna()])) == unanswered
    assert answers.why[answers.effect.isna()].str.contains("0 models in 0 cells have all of them measured").all()
    (answer,) = analyze(table, hypothesis(STATE)).hypotheses.itertuples()
    assert answer.verdict == ("undecided" if missing == INSIDE else "supported")


def test_a_factor_is_not_judged_beside_a_property_that_it_moves() -> None:
    """factor1 acts by way of p0 alone, which it lowers: at the same p0 it seems to do the contrary."""
    table = table_of(replace(LARGE, effect=0.0, spread=0.0), 0)
    table["property.p0"] = table["property.p0"] - 1.5 * table["factor1"]
    moved = (table["property.p0"] - table["property.p0"].mean()) / table["property.p0"].std()
    noise = 0.03 * np.random.default_rng(0).normal(size=len(table))
    mine = table.response == RESPONSE
    table.loc[mine, "value"] = 0.5 + 0.1 * moved[mine] + 0.05 * table.loc[mine, "factor1"] + noise[mine]
    beside_property = models.design(
        models.models(models.check(table), RESPONSE),
        RESPONSE,
        tuple(models.resolve(table, name) for name in ("p0", "factor1")),
    )
    assert np.linalg.lstsq(beside_property.x, beside_property.y, rcond=None)[0][2] > 0.02
    results = analyze(table, hypothesis(), hypothesis("factor1", "negative"))
    joint = results.effects[(results.effects.response == RESPONSE) & (results.effects.model == JOINT)]
    assert dict(zip(joint.predictor, joint.beside)) == {"property.p0": "factor1", "factor1": "factor0"}
    assert row_of(joint, predictor="factor1").high < 0
    assert list(results.hypotheses.verdict) == ["supported", "supported"]


def test_a_sign_is_claimed_only_where_both_estimates_have_it() -> None:
    row = large().effects[large().effects.model == JOINT].iloc[0].to_dict()
    assert doubt(row) == ""
    turned = row | {"effect": -row["effect"], "low": -row["high"], "high": -row["low"]}
    assert doubt(turned).startswith("the wild bootstrap does not agree (its interval is ")
    wild = {"wild_low": -row["wild_high"], "wild_high": -row["wild_low"]}
    assert doubt(turned | wild) == ""
    assert doubt(turned | wild | {"missing": 2, "bound_low": 0.1, "bound_high": 0.2}) == (
        "2 missing values could turn the sign"
    )


def test_no_effect_is_one_over_the_whole_range_not_per_standard_deviation() -> None:
    table = table_of(replace(LARGE, spread=0.0), 0)
    mine = table.response == RESPONSE
    level = table.loc[mine, "property.p1"]
    noise = 0.005 * np.random.default_rng(0).normal(size=mine.sum())
    table.loc[mine, "value"] = 0.9 + 0.03 * (level - level.mean()) / level.std() + noise
    (answer,) = analyze(table, hypothesis("p1", "none")).hypotheses.itertuples()
    assert answer.high < 0.05 < answer.high * answer.reach
    assert answer.verdict == "contradicted"


def test_a_sweep_without_an_inner_state_has_no_rows_of_it() -> None:
    table = table_of(LARGE, 0)
    assert inner_state(models.check(table[table.response != STATE])).empty


# --- planted truth, in small; `make coverage-of-generalization` is the large one --------------------------------------


def test_the_large_simulation_held_what_the_page_says() -> None:
    table = pd.read_csv(Path(__file__).parents[4] / "docs" / "generalization_coverage.csv")
    assert (table.tables >= 1000).all()
    covers = table[table.quantity.str.startswith("covered")]
    of_arms = covers.design.str.endswith("arms")
    assert covers.share[~of_arms].between(0.92, 0.98).all()
    assert covers.share[of_arms].between(0.91, 0.99).all()
    false = table[table.quantity.str.fullmatch(r"positive_(mixed|robust|wild)_0|claimed_0|positive_ranks_cells")]
    assert (false.share <= 0.09).all()
    power = table[(table.quantity == "claimed_0.1") & (table.spread_of_cells <= 0.03)]
    assert (power.share[~power.design.str.endswith("arms")] > 0.85).all()
    state = table[(table.question == "inner state") & (table.effect == 0)]
    assert (state[state.quantity.str.startswith(("positive", "claimed"))].share <= 0.06).all()
    assert (state[(state.quantity == "naive_across") & state.with_base].share > 0.1).all(), "what the second row is for"


def test_intervals_hold_the_truth() -> None:
    """24 tables: 95 % are 23, with a standard deviation of 1.1."""
    shares = covered(Planted((5,), 0.0, 0.03), 24, (0.0, 0.1), draws=199)
    assert all(shares[f"covered_{key}"] >= 0.8 for key in ("mixed", "robust", "wild"))
    assert shares["positive_mixed_0.1"] > 0.7
    assert shares["claimed_0"] <= 0.15
    assert covered_state(Planted((5,), 0.05, 0.03), 8, draws=99)["covered_across"] >= 0.6


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="why"), "the sweep's table has no column why; it is written by cadmus-probe sweep"),
        (lambda t: pd.concat([t, t[:1]]), f"the sweep's table has {RESPONSE} of cell cell00, seed 0, twice"),
        (lambda t: t[t.seed == 1], "the sweep has 1 seeds; nothing can be told from fewer than two"),
        (lambda t: t[t.cell == "cell00"], "the sweep has 1 cells; nothing can be told from fewer than two"),
    ],
)
def test_tables_that_are_none(change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        analyze(change(table_of(LARGE, 0)))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (
            hypothesis("p7"),
            "predictor 'p7' is no factor, property or response; there are factor0, factor1, words, ",
        ),
        (hypothesis(expected="up"), "expected = 'up' must be positive, negative or none"),
        ({"response": RESPONSE}, "needs a response, a predictor and what is expected, each a text"),
        ({**hypothesis(), "response": "accuracy.x"}, "the sweep has no such response; it has accuracy.unseen_values, "),
        (hypothesis("same"), "predictor 'property.same' is the same in all models: the sweep does not vary it"),
        (hypothesis("words"), "predictor 'words' is no number: name the property that its levels move"),
    ],
)
def test_hypotheses_about_what_is_not_there(entry: dict, message: str) -> None:
    table = table_of(LARGE, 0).assign(**{"property.same": 1.0, "words": "many"})
    with pytest.raises(ValueError, match=message):
        analyze(table, entry)


def test_failed_runs_are_counted_and_left_out() -> None:
    table = table_of(LARGE, 0)
    failed = (table.cell == "cell03") & (table.seed == 2)
    table.loc[failed, ["status", "why"]] = ["failed", "killed"]
    table.loc[failed, ["property.p0", "property.p1"]] = np.nan
    row = row_of(analyze(table, hypothesis()).effects, response=RESPONSE, predictor="property.p0")
    assert (row.models, row.missing) == (59, 1)
    assert np.isfinite(row.bound_low)
