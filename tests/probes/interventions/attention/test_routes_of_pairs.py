"""Routes of pairs: the edges of their values, mechanisms from planted outcomes, and the model that ships."""

from functools import cache

import numpy as np
import pandas as pd
import pytest

import cadmus
from cadmus.models.config import ModelConfig
from cadmus.programs import mixture
from probes.controls.untrained import untrained_twin
from probes.interventions import counterfactuals
from probes.interventions.attention.answers import EdgeSet, Patch, answers, bases_of, judged
from probes.interventions.attention.routes import Routes, _balanced, routes
from probes.interventions.attention.value_edges import moves, value_edges
from probes.interventions.counterfactuals.pairs import Pairs
from probes.interventions.effects.mechanism import COLUMNS, WORDS, mechanism
from tests.models import far_from_trivial
from tests.probes.interventions.counterfactuals.plain_pairs import REGISTER, some
from tests.probes.interventions.effects.planted_outcomes import CELLS, ROLES, planted

BASES = ["5A3Bab+8=.", "7A2A3Ba2=.", "4C9~Ac4=."]
SOURCES = ["6A3Bab+9=.", "7A4A3Ba4=.", "8C9~Ac8=."]


@cache
def pairs_of_texts() -> Pairs:
    parts = [
        counterfactuals.from_programs(f"reg.{name}", [base], [source], REGISTER)
        for name, base, source in zip("aac", BASES, SOURCES)
    ]
    table = pd.concat([part.pairs for part in parts], ignore_index=True).assign(pair=range(3))
    roles = pd.concat([part.roles.assign(pair=number) for number, part in enumerate(parts)], ignore_index=True)
    return Pairs(table, roles, parts[0].families, parts[0].about)


def edges_of(row: int) -> set[tuple[str, int, int]]:
    table = value_edges(pairs_of_texts())
    return set(table[table["row"] == row][["kind", "query", "key"]].itertuples(index=False, name=None))


def test_the_edges_of_a_value_are_its_own_and_those_of_the_decision() -> None:
    # positions:     .5A3Bab+ -> 5 at 1, its store at 2, its load at 5, the sum at 7
    expected = {
        ("store", 2, 1),
        ("load_store", 5, 2),
        ("load_origin", 5, 1),
        ("operand", 7, 5),
        ("operand_origin", 7, 1),
    }
    assert edges_of(0) == expected
    assert {edge for edge in edges_of(1) if edge[0].startswith("load")} == {("load_store", 7, 4), ("load_origin", 7, 3)}
    assert {edge for edge in edges_of(2) if edge[0] == "decision_origin"} == {("decision_origin", 6, 1)}


def test_edges_move_to_another_store_and_ask_for_its_number() -> None:
    move = moves(pairs_of_texts())
    assert move is not None
    rows = move.edges.set_index(["row", "kind"])["to"]
    assert rows[0, "load_store"] == 4
    assert rows[0, "load_origin"] == 3
    assert rows[1, "load_store"] in (2, 6)  # the version that was overwritten, or the other register
    texts = ["5A3Bab+6=.", "5A3Bab+8=.", "4C9~Ac9~=.", "4C9~Ac4=."]
    judgement = move.becomes.answer(np.array([0, 0, 2, 2]), texts)
    assert judgement.tolist() == [True, False, True, False]


# --- mechanisms ------------------------------------------------------------------------------------------------------


def register_pairs(n: int = 300) -> Pairs:
    """The columns of pairs that mechanisms look at."""
    table = pd.DataFrame({"read_distance": np.arange(n) % 9, "overwrites": np.arange(n) % 2})
    return Pairs(table, pd.DataFrame(), ())


HELD = {(layer, "stored"): 0.9 for layer in range(3)} | {(3, "loaded"): 0.9}
ORIGIN = {(layer, "arose"): 0.9 for layer in range(3)} | {(3, "loaded"): 0.9}


@pytest.mark.parametrize(
    ("rates", "word"),
    [
        (HELD, "tracked at the store"),
        (ORIGIN, "looked up at the load"),
        (HELD | ORIGIN, "both"),
        (HELD | {(0, "arose"): 0.9}, "tracked at the store"),  # where it arose it is spent when the load has it
        ({(0, "stored"): 0.9}, "undecided"),
        ({(0, "arose"): 0.9, (3, "loaded"): 0.9}, "undecided"),
        ({}, "undecided"),
    ],
)
def test_the_word_says_where_the_value_is_when_the_load_comes(rates: dict, word: str) -> None:
    table = mechanism(planted(rates=rates), register_pairs())
    assert list(table) == list(COLUMNS)
    assert set(table["group"]) == {"all", "near", "far", "first store", "overwritten"}
    assert set(table["mechanism"][table["group"] == "all"]) == {word}
    assert set(table["role"]) == set(ROLES)


def test_layers_are_those_in_which_exchanges_move_the_answer() -> None:
    table = mechanism(planted(rates=HELD), register_pairs()).set_index(["group", "role"])
    assert table.loc[("all", "stored"), ["first", "last"]].tolist() == [0, 2]
    assert table.loc[("all", "loaded"), ["first", "last", "best"]].tolist() == [3, 3, 3]
    assert table.loc[("all", "arose"), ["first", "last"]].tolist() == [-1, -1]


def test_changes_of_the_input_say_nothing_about_where_a_value_is() -> None:
    outcomes = planted(rates=ORIGIN)
    cells = outcomes.cells.assign(input_change=outcomes.cells["role"] == "arose")
    changed = type(outcomes)(**{**vars(outcomes), "cells": cells})
    assert "arose" not in set(mechanism(changed, register_pairs())["role"])


def test_layers_between_that_were_not_tested_do_not_count() -> None:
    cells = CELLS[CELLS["layer"].isin([1, 3])].reset_index(drop=True)
    looked_up = {(1, "arose"): 0.9, (3, "loaded"): 0.9}
    assert mechanism(planted(rates=looked_up, cells=cells), register_pairs())["mechanism"].iloc[0] == WORDS[1]
    early = {(1, "loaded"): 0.9}  # no layer was tested before it
    assert mechanism(planted(rates=early, cells=cells), register_pairs())["mechanism"].iloc[0] == "undecided"


def test_cells_without_controls_and_few_skeletons_move_nothing_in_any_group() -> None:
    controlled = ~(CELLS["role"] == "stored").to_numpy()
    table = mechanism(planted(rates=HELD, controlled=controlled), register_pairs())
    rows = table[table["role"] == "stored"]
    assert (rows[["first", "last", "best"]] == -1).all(axis=None)
    assert rows[["d", "d_low", "d_high"]].isna().all(axis=None)
    assert set(table["mechanism"]) == {"undecided"}
    few = mechanism(planted(rates=HELD, skeletons=20), register_pairs())
    assert (few["first"] == -1).all()


# --- heads -----------------------------------------------------------------------------------------------------------


def test_the_table_of_heads_shows_what_each_is_needed_for() -> None:
    attention = pd.DataFrame(
        [("store", 0, 0, 0.9, False), ("operand", 0, 0, 0.3, True), ("store", 0, 1, 0.2, False)],
        columns=["kind", "layer", "head", "d", "attends"],
    )
    attention = attention.assign(mass=0.5, baseline=0.1, queries=9, d_low=0.1, d_high=0.9, q=0.01)
    cut = pd.DataFrame(
        [
            ("store", 0, 0, 0.8, False),
            ("operand", 0, 0, 0.4, True),
            ("decision", 0, 0, 0.3, True),
            ("store", 0, 1, 0.2, False),
            ("store", 0, -1, 0.9, True),
        ],
        columns=["kind", "layer", "head", "d", "needed"],
    )
    figures = ["pairs", "mass", "d_low", "d_high", "q", "broken", "elsewhere", "no_flow", "matched", "moved"]
    cut = cut.assign(**dict.fromkeys([*figures, "moved_control"], 0.5), controls="elsewhere")
    found_routes = Routes(attention, cut, pd.DataFrame(), pd.DataFrame(), pd.DataFrame())
    heads = found_routes.heads.set_index(["layer", "head"])
    assert heads["flow"].tolist() == ["operand", "store"]
    assert heads["attends"].tolist() == [True, False]
    assert heads["knockout"].tolist() == ["operand", "store"]
    assert heads["needed"].tolist() == [True, False]
    assert heads["needed_for"].tolist() == ["operand, decision", ""]
    assert set(heads.index[heads["needed"]]) == set(zip(found_routes.needed["layer"], found_routes.needed["head"]))


def test_bases_are_drawn_from_families_and_strata_in_turn() -> None:
    table = pd.DataFrame({"family": ["f"] * 90 + ["g"] * 30, "stratum": (["literal"] * 2 + ["computed"]) * 40})
    pairs, rows = Pairs(table, pd.DataFrame(), ()), np.arange(1, 120)
    chosen_rows = _balanced(pairs, rows, 40, seed=0)
    assert (np.diff(chosen_rows) > 0).all()
    assert set(chosen_rows) <= set(rows.tolist())
    assert table.iloc[chosen_rows].value_counts().tolist() == [10] * 4
    assert np.array_equal(chosen_rows, _balanced(pairs, rows, 40, seed=0))
    assert not np.array_equal(chosen_rows, _balanced(pairs, rows, 40, seed=1))
    assert np.array_equal(_balanced(pairs, rows, 119, seed=1), rows)


# --- models ----------------------------------------------------------------------------------------------------------


def test_answers_under_edits_are_what_whole_completions_say() -> None:
    """What is written in part and judged in part, beside completions as they are."""
    import torch

    from probes.interventions.editing import changes, engine
    from probes.interventions.editing.edits import EdgeEdit, Edit

    cfg = ModelConfig(n_layers=2, d_model=24, n_heads=3, d_head=8, d_mlp=32, n_ctx=64)
    model, pairs = far_from_trivial(cfg), some("reg.a", 12)
    bases = bases_of(model, pairs)
    n = len(pairs)
    values = torch.randn(n, 1, 1, cfg.d_head, generator=torch.Generator().manual_seed(0)) * 5
    rows = np.arange(n)
    edges = np.stack([rows, rows * 0, rows * 0 + 1, bases.cuts, rows * 0 + 1], 1)
    patch = Patch("blocks.0.attn.hook_z", bases.cuts[:, None], values, (1,))
    treatments = [EdgeSet(n, edges), patch]
    texts = answers(model, bases, treatments)
    arms = [
        EdgeEdit(0, bases.cuts, np.ones(n, int), [1]),
        Edit("blocks.0.attn.hook_z", bases.cuts, changes.patch(values[:, 0]), [1]),
    ]
    whole = engine.complete(model, list(bases.prompts), arms)
    right = judged(model, bases, treatments, texts, bases.is_right, bases.right())
    for number, completions in enumerate(whole):
        assert right[number].tolist() == bases.is_right(rows, completions).tolist()
        for row, text in enumerate(completions):
            differs = bases.answer(text, row) != bases.answer(bases.own[row], row)
            assert (row in texts[number]) >= differs or bases.answer(text, row)[-1:] not in "=<>"


def test_a_model_that_answers_nothing_right_has_attention_alone() -> None:
    cfg = ModelConfig(n_layers=2, d_model=24, n_heads=3, d_head=8, d_mlp=32, n_ctx=64)
    table = routes(far_from_trivial(cfg), some("reg.a", 24), untrained=far_from_trivial(cfg))
    assert len(table.heads) == 6
    assert not table.heads["attends"].any()
    assert table.edges.empty
    assert table.needed.empty
    assert table.word == "undecided"
    assert repr(table) == "Routes(undecided; heads needed: none)"


def test_a_full_test_in_which_no_head_stands_out_has_no_paths() -> None:
    cfg = ModelConfig(n_layers=2, d_model=24, n_heads=3, d_head=8, d_mlp=32, n_ctx=64)
    model, pairs = far_from_trivial(cfg), some("reg.a", 24)
    right = (pairs.pairs["base"] + pairs.pairs["base_answer"] + ".").tolist()
    table = routes(model, pairs, own=right, untrained=far_from_trivial(cfg), kinds=("load_store",), full=True)
    assert not table.heads["attends"].any()
    assert table.paths.empty


@pytest.mark.slow
def test_the_model_that_ships_finds_the_store_with_a_head_of_its_second_layer() -> None:
    model = cadmus.load_model()
    pairs = counterfactuals.draw("reg.a", mixture.load("default"), 60, kinds=("discriminating",))
    table = routes(model, pairs, untrained=untrained_twin(model, 0), kinds=("load_store", "load"), full=True)
    heads = table.heads.set_index(["layer", "head"])
    assert heads["needed"][1, 3]
    assert heads["knockout"][1, 3] == "load_store"
    assert heads["moved"][1, 3] > heads["moved_control"][1, 3] + 0.2
    assert heads["attends"].sum() > 3
    assert set(table.paths) >= {"sender", "receiver", "moved"}
