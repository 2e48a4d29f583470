"""Pairs of programs of one's own, pairs on disk, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from cadmus.machine import tokens
from cadmus.programs.families import Arith, Compare, Equality, Register
from cadmus.programs.mixture import Component, Mixture
from cadmus.runtime.artifacts import ArtifactError
from probes.interventions import counterfactuals
from probes.interventions.counterfactuals import Pairs, PairVariable, draw, judge
from probes.interventions.counterfactuals.variables import Occurrence
from tests.probes.interventions.counterfactuals.plain_pairs import MINI, REGISTER, answer, arose, own, rows_of, some

# --- programs of one's own -------------------------------------------------------------------------------------------


def test_pairs_of_any_two_lists() -> None:
    bases = ["3A4Bab+7=.", "5A2Ba5=.", "1A1Ba1=.", "2A7Bab+9=."]
    sources = ["5A1Bab+6=.", "7A95+Ba7=.", "1A3Ba1=.", "3A0Bab+3=."]
    pairs = counterfactuals.from_programs("reg.a", bases, sources, REGISTER)
    assert pairs.about["left_out"] == 1
    table = pairs.pairs
    assert list(table["base"]) == ["3A4Bab+", "5A2Ba", "2A7Bab+"]
    assert list(table["kind"]) == ["discriminating", "minimal", "discriminating"]
    assert list(table["shift"]) == [0, 2, 0]
    assert list(zip(table["base_answer"], table["edited_answer"], table["source_answer"], strict=True)) == [
        ("7=", "9=", "6="),
        ("5=", "7=", "7="),
        ("9=", "91+=", "3="),
    ]
    assert list(table["same_value"]) == ["3A0Bab+", "", ""]
    assert list(table["third_value"]) == ["", "", "5A1Bab+"]
    assert list(table["third_answer"]) == ["", "", "93+="]
    assert pairs.positions("loaded")[:, 0].tolist() == [5, 5, 5]
    assert pairs.source_positions("loaded")[:, 0].tolist() == [5, 7, 5]
    assert (pairs.sequences("third_value")[0] == tokens.PAD).all()


def test_a_variable_of_ones_own_is_a_row() -> None:
    subtracted = PairVariable("subtracted", ("compare",), (Occurrence("consumed", "stack.0", "-"),), 2, in_range=False)
    for row, roles, family in rows_of(draw(subtracted, MINI, 6)):
        tokens_of_consumers = {row["base"][at] for at in roles[roles["role"] == "consumed"]["base_token"]}
        assert "-" in tokens_of_consumers
        assert answer(family, row["base"], arose(roles), row["source_value"]) == row["edited_answer"] != ""


def test_families_whose_answer_is_that_nothing_follows_make_no_pairs() -> None:
    compared = PairVariable("compared", ("equality",), (Occurrence("consumed", "stack.1", "="),))
    family = Equality(length=3, low=0, high=18)
    with pytest.raises(ValueError, match="none of 1 bases and sources makes a pair of compared"):
        own(compared, ["34+52+=."], ["12+43+=!."], family)


# --- files and errors ------------------------------------------------------------------------------------------------


def test_pairs_are_read_back(tmp_path: Path) -> None:
    pairs = some("argument")
    assert Pairs.load(pairs.save(tmp_path / "pairs")).families == pairs.families
    again = Pairs.load(tmp_path / "pairs")
    assert again.pairs.equals(pairs.pairs)
    assert again.roles.equals(pairs.roles)
    assert again.about == dict(pairs.about)
    assert {"variable", "seed", "mixture", "versions"} <= set(again.about)
    assert pd.read_parquet(tmp_path / "pairs" / "roles.parquet").equals(pairs.roles)
    with pytest.raises(ArtifactError, match="does not exist"):
        Pairs.load(tmp_path / "none")


def test_selected_pairs_are_numbered_anew() -> None:
    pairs = some("reg.a")
    half = pairs.select(pairs.pairs["kind"].to_numpy() == "discriminating")
    assert list(half.pairs["pair"]) == list(range(8))
    assert list(half.pairs["base"]) == list(pairs.pairs["base"][8:])
    assert (half.positions("stored")[:, 0] == pairs.positions("stored")[8:, 0]).all()
    assert repr(half).startswith("Pairs(8 of reg.a: 8 discriminating)")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"variable": "reg.aa"},
            r"unknown variable 'reg.aa' \(did you mean 'reg.a'\?\); there are reg.a, .* PairVariable",
        ),
        ({"n": 0}, "0 pairs of 2 kinds are asked for; ask for one or more"),
        ({"kinds": ("minimall",)}, r"unknown kind of pairs 'minimall' \(did you mean 'minimal'\?\)"),
        ({"kinds": ()}, "4 pairs of 0 kinds"),
        ({"split": "later"}, "unknown split 'later'"),
        (
            {"mixture": Mixture("m", (Component(Compare()),))},
            "mixture 'm' has no family with reg.a, which programs of register have; it has compare",
        ),
        (
            {"mixture": Mixture("m", (Component(Register(registers="bcd")),))},
            r"only 0 minimal pairs of reg.a were found in the family register \(2 are asked for\)",
        ),
    ],
)
def test_what_cannot_be_drawn_is_said(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        draw(**{"variable": "reg.a", "mixture": MINI, "n": 4} | change)


def test_what_cannot_be_paired_or_judged_is_said() -> None:
    pairs = some("reg.a")
    completions = [base + "1=." for base in pairs.pairs["base"]]
    for call, message in (
        (lambda: own("reg.a", ["3A4Bab+7=."], [], REGISTER), "1 bases and 0 sources; give one or more"),
        (
            lambda: own("reg.a", ["34+7=."], ["34+7=."], Arith()),
            "of the family arith have no reg.a; those of register do",
        ),
        (lambda: own("reg.a", ["3A4B"], ["3A4B"], REGISTER), "'3A4B' is not a program of the family register"),
        (lambda: own("reg.a", ["3Aa3=."], ["3Aa3=."], REGISTER), "none of 1 bases .* in 0 of them .* do not differ"),
        (
            lambda: judge(pairs, "load", completions),
            r"unknown role 'load' \(did you mean 'loaded'\?\); there are arose,",
        ),
        (lambda: judge(pairs, None, completions[1:]), "15 completions of 16 pairs"),
        (lambda: judge(pairs, None, completions[::-1]), "completion 0, .* does not begin with its base"),
        (lambda: pairs.sequences("sources"), r"unknown text 'sources' \(did you mean 'source'\?\)"),
        (lambda: pairs.family("stack"), "no pair is of the family 'stack'; there are register"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
