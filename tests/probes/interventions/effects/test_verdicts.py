"""Verdicts on planted truth: how often each word is right, and what each of them needs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from probes.interventions.effects.effects import effects
from probes.interventions.effects.verdicts import by_variable, heads, verdicts
from tests.probes.interventions.effects.planted_outcomes import CELLS, planted


def judge(*outcomes, seed: int = 0) -> pd.DataFrame:
    return verdicts(effects(outcomes, seed, resamples=500))


def words(table: pd.DataFrame, variable: str = "reg.a") -> dict[tuple[int, str, str], str]:
    rows = table[table["variable"] == variable]
    return {(row.layer, row.role, row.span): row.verdict for row in rows.itertuples()}


def test_used_where_it_is_used_and_spent_behind() -> None:
    cells = CELLS.assign(readable=[True] * 11 + [False] * 5)
    rates = {(1, "arose"): 0.8, (2, "stored"): 0.5}
    table = judge(planted(rates=rates, cells=cells, pairs=600, skeletons=10**6))
    word = words(table)
    assert {cell for cell, verdict in word.items() if verdict == "used"} == {
        (1, "arose", "single"),
        (2, "stored", "single"),
        (2, "stored", "from"),
    }
    assert word[3, "stored", "single"] == "spent"
    assert word[0, "stored", "single"] == "undecided"  # a later role, but before the layer where one is used
    assert word[0, "arose", "single"] == "undecided"  # nothing earlier is used
    assert word[3, "loaded", "single"] == "undecided"  # not readable
    reasons = table.set_index(["layer", "role", "span"])["reason"]
    assert reasons[1, "arose", "single"].startswith("d = 0.7")
    assert "moves no more than its controls here" in reasons[3, "loaded", "single"]
    (row,) = by_variable(table).to_dict("records")
    assert (row["verdict"], row["cells_used"], row["first"], row["best"]) == (
        "used",
        3,
        "layer 1, arose",
        "layer 1, arose",
    )


@pytest.mark.slow
def test_unused_needs_cumulative_patches_pairs_and_a_positive_control() -> None:
    nothing = {"control": 0.002, "pairs": 900, "skeletons": 10**6}
    table = judge(planted(**nothing))
    assert set(table["verdict"]) == {"unused"}
    assert by_variable(table)["verdict"].tolist() == ["unused"]
    single = CELLS[CELLS["span"] == "single"].reset_index(drop=True)
    lacking = {
        "no cumulative patch was tested": planted(**nothing, cells=single),
        "the positive control on the same pairs does not pass": planted(**nothing, positive=0.4),
        "no positive control on the same pairs": planted(**{**nothing, "positive": 0.9}),
        "some cell has 190 pairs of the 200 that unused asks for": planted(**{**nothing, "pairs": 190}, counting=1.0),
    }
    for reason, outcomes in lacking.items():
        if reason.startswith("no positive"):
            object.__setattr__(outcomes, "positive", None)
        table = judge(outcomes)
        assert set(table["verdict"]) == {"undecided"}
        assert table["obstacle"].str.contains(reason).all()
        assert reason in by_variable(table)["reason"][0]


NOTHING = {"control": 0.0, "skeletons": 10**6, "counting": 1.0}


def test_spent_needs_the_bound_and_no_200_pairs() -> None:
    rates = {(1, "arose"): 0.8}
    cells = CELLS.assign(readable=CELLS["span"] == "single")
    table = judge(planted(rates=rates, cells=cells, pairs=190, **NOTHING))
    assert words(table)[2, "stored", "single"] == "spent"
    assert words(table)[1, "stored", "single"] == "spent"  # a later role at the same layer
    assert words(table)[0, "loaded", "single"] == "undecided"
    reason = table[(table["layer"] == 0) & (table["role"] == "loaded")]["reason"].iloc[0]
    assert "some cell has 190 pairs of the 200" in reason
    assert reason.endswith("not spent: not shown to be used earlier")


def test_what_replaces_the_answer_is_not_spent() -> None:
    """At a token that holds the answer by then, an exchange changes answers, though not to the machine's."""
    cells = CELLS.assign(readable=CELLS["span"] == "single")
    changes = {"cells": cells, "pairs": 300, **NOTHING}
    outcomes = planted(rates={(1, "arose"): 0.8}, **changes)
    is_replaced = ((cells["layer"] == 3) & (cells["role"] == "loaded")).to_numpy()
    table = judge(replace(outcomes, changed=outcomes.success | is_replaced[:, None]))
    word = words(table)
    assert word[2, "loaded", "single"] == "spent"
    assert word[3, "loaded", "single"] == "undecided"
    reason = table[(table["layer"] == 3) & (table["role"] == "loaded")]["reason"].iloc[0]
    assert reason.endswith("not spent: the exchange changes 1.00 [0.99, 1.00] of the answers, if not to the machine's")
    unknown = judge(replace(outcomes, changed=None))
    assert "spent" not in set(unknown["verdict"])
    assert unknown["reason"].str.endswith("not spent: how many answers change is not known").any()


@pytest.mark.parametrize(("span", "role", "is_spent"), [("from", "arose", False), ("up_to", "arose", True)])
def test_what_a_patch_from_a_role_on_moves_may_lie_behind(span: str, role: str, is_spent: bool) -> None:
    cells = pd.DataFrame(
        [(1, role, span), (1, "stored", "single"), (2, "stored", "single"), (2, "arose", "single")],
        columns=["layer", "role", "span"],
    )
    success = np.zeros((4, 300), bool)
    success[0] = np.arange(300) % 5 > 0
    table = judge(planted(cells=cells.assign(readable=cells["span"] == "single"), success=success, **NOTHING))
    word = words(table)
    assert word[1, role, span] == "used"
    assert (word[2, "stored", "single"] == "spent") == is_spent
    assert word[2, "arose", "single"] == "undecided"  # its last role is no earlier one


@pytest.mark.parametrize("rates", [{(1, "arose"): 0.9}, {}])
def test_below_30_skeletons_nothing_is_claimed(rates: dict) -> None:
    cells = CELLS.assign(readable=CELLS["span"] == "single")
    table = judge(planted(rates=rates, cells=cells, pairs=600, skeletons=20, control=0.0, counting=1.0))
    assert set(table["verdict"]) == {"undecided"}
    assert (table["clusters"] == 20).all()
    assert table["reason"].str.contains(r"fewer than 30 skeletons \(20\)").all()
    assert not heads(effects(planted(rates={(1, "arose"): 0.9}, pairs=600, skeletons=20)))["used"].any()


def test_a_change_of_input_is_reported_and_never_claimed() -> None:
    cells = CELLS.assign(input_change=CELLS["layer"] == 0)
    rates = {(0, "arose"): 0.95, (0, "stored"): 0.95, (0, "loaded"): 0.95}
    table = judge(planted(rates=rates, cells=cells, control=0.002, pairs=900, skeletons=10**6))
    first = table[table["layer"] == 0]
    assert (first["verdict"] == "undecided").all()
    assert not first["claimed"].any()
    assert first["reason"].str.startswith("amounts to a change of input: reported, never claimed (d = 0.9").all()
    assert set(table[table["layer"] > 0]["verdict"]) == {"unused"}
    table = judge(planted(rates=rates, cells=CELLS.assign(input_change=True)))
    assert set(table["verdict"]) == {"undecided"}


@pytest.mark.slow
def test_minimal_and_shifted_pairs_say_nothing() -> None:
    outcomes = planted(rates={(1, "arose"): 0.9}, kinds=np.full(300, "minimal"))
    with pytest.raises(ValueError, match="no row comes from discriminating pairs without a shift"):
        judge(outcomes)
    mixed = planted(rates={(1, "arose"): 0.9}, pairs=600, shifted=np.arange(600) < 300)
    assert len(judge(mixed)) == len(CELLS)


def test_a_model_that_completes_nothing_is_undecided_and_says_why() -> None:
    table = judge(planted(counts=np.zeros(300, bool)), planted(variable="reg.b", rates={(1, "arose"): 0.8}))
    rows = table[table["variable"] == "reg.a"]
    assert set(rows["verdict"]) == {"undecided"}
    assert rows["reason"].str.startswith("none of 300 pairs counts").all()
    assert words(table, "reg.b")[1, "arose", "single"] == "used"
    summary = by_variable(table).set_index("variable")
    assert summary.loc["reg.a", "reason"].startswith("none of 300 pairs counts")
    assert summary.loc["reg.a", "pairs"] == 0


def test_few_pairs_are_never_enough_for_used() -> None:
    table = judge(planted(rates={(1, "arose"): 1.0}, pairs=25, counting=1.0, skeletons=10**6))
    row = table[(table["layer"] == 1) & (table["role"] == "arose")].iloc[0]
    assert row["d_low"] > 0.05
    assert row["verdict"] == "undecided"
    assert "on fewer than 30 pairs" in row["reason"]


def test_roles_have_an_order() -> None:
    table = effects(planted(cells=CELLS.assign(role="elsewhere")), resamples=50)
    with pytest.raises(ValueError, match="role 'elsewhere' is none of arose, stored"):
        verdicts(table)
    assert len(verdicts(table, roles=("elsewhere",))) == len(CELLS)


# --- rates -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_variable_without_effect_is_rarely_called_used() -> None:
    """Four variables whose interchange moves 0.05 more than each control, the hardest null, and one that is used:

    false words anywhere in at most 5 % of 200 data sets (2 standard errors are 3 %), the used one is always found.
    """
    null = {(layer, role): 0.10 for layer in range(4) for role in ("arose", "stored", "loaded")}
    false, missed = 0, 0
    for seed in range(200):
        variables = [
            planted(seed, null, control=0.05, variable=f"reg.{name}", skeletons=150, untrained=None) for name in "abcd"
        ]
        for outcomes in variables:  # one control: the best of several makes the null easier
            object.__setattr__(outcomes, "controls", {"random": outcomes.controls["random"]})
        variables.append(planted(seed, {(2, "stored"): 0.3}, variable="stack.0", skeletons=150))
        table = verdicts(effects(variables, seed, resamples=300))
        used = table[table["verdict"] == "used"]
        false += (used["variable"] != "stack.0").any()
        missed += not (used["variable"] == "stack.0").any()
    assert false / 200 <= 0.08
    assert missed == 0


@pytest.mark.slow
def test_power() -> None:
    """On 270 counting pairs a cell whose interchange succeeds in 20 % more than the controls do is used 9 times in 10
    among 16 cells, and one at 15 % about half the time."""
    rates = {(1, "arose"): 0.23, (2, "stored"): 0.18}
    found = []
    for seed in range(100):
        word = words(verdicts(effects(planted(seed, rates, skeletons=10**6), seed, resamples=300)))
        found.append([word[1, "arose", "single"] == "used", word[2, "stored", "single"] == "used"])
    power = np.mean(found, 0)
    assert power[0] >= 0.85
    assert 0.3 <= power[1] <= 0.9


@pytest.mark.slow
def test_few_of_the_heads_called_used_are_not() -> None:
    """Benjamini and Hochberg over 32 heads, six of which carry the variable: 5 % false among those found."""
    cells = pd.DataFrame(
        [(layer, "loaded", head) for layer in range(4) for head in range(8)], columns=["layer", "role", "head"]
    )
    share, found = [], []
    for seed in range(60):
        outcomes = planted(seed, cells=cells, control=0.05, skeletons=10**6, untrained=None)
        rate = np.full(len(cells), 0.10)
        rate[:6] = 0.35
        rng = np.random.default_rng(seed)
        object.__setattr__(outcomes, "success", rng.random(outcomes.success.shape) < rate[:, None])
        object.__setattr__(outcomes, "controls", {"random": outcomes.controls["random"]})
        table = heads(effects(outcomes, seed, resamples=100))
        used = table["used"].to_numpy()
        share.append(used[6:].sum() / max(1, used.sum()))
        found.append(used[:6].mean())
    assert np.mean(share) <= 0.06
    assert np.mean(found) >= 0.95
    assert table["q"].between(0, 1).all()
    table = heads(effects(planted(cells=cells.assign(input_change=cells["layer"] == 0)), resamples=100))
    assert table["q"].isna().tolist() == (cells["layer"] == 0).tolist()
    assert not table["used"][cells["layer"] == 0].any()
