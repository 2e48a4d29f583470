"""Subspaces and attribution of an experiment: cells that are best, pairs that are new, a model that is known."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest

import cadmus
from cadmus.machine import tokens
from cadmus.models.config import ModelConfig
from cadmus.models.model import Model
from cadmus.programs import mixture
from cadmus.programs.skeletons import skeleton
from probes.controls.untrained import untrained_twin
from probes.interventions import counterfactuals
from probes.interventions.attribution.tables import attributions
from probes.interventions.counterfactuals.pairs import Pairs
from probes.interventions.counterfactuals.variables import resolve_variable
from probes.interventions.effects.effects import effects
from probes.interventions.effects.verdicts import verdicts
from probes.interventions.experiment import subspace_search
from probes.interventions.subspaces.controls import METHODS
from probes.interventions.subspaces.subspace import SearchConfig
from tests.probes.interventions.effects.planted_outcomes import planted
from tests.studies import MICRO

MIXTURE = mixture.load("default")
VARIABLE = resolve_variable("compare.first")
FEW = SearchConfig(steps=3, batch_size=16)


@cache
def micro() -> Model:
    return cadmus.load_model(MICRO)


@cache
def pairs_of(n: int = 60, seed: int = 0) -> Pairs:
    return counterfactuals.draw(VARIABLE, MIXTURE, n, seed, kinds=["discriminating"])


def words(**changes) -> pd.DataFrame:
    return verdicts(effects(planted(**changes), resamples=100)).assign(has_controls=True)


# --- where, and on what ----------------------------------------------------------------------------------------------


def test_the_best_cell_is_the_one_that_moves_most_alone() -> None:
    assert subspace_search.best_cell(words(rates={(1, "arose"): 0.5, (2, "loaded"): 0.8})) == (2, "loaded")
    assert subspace_search.best_cell(words(rates={})) is None
    literal = words(rates={(1, "arose"): 0.9, (2, "loaded"): 0.5}).assign(stratum="literal")
    assert subspace_search.best_cell(literal) == (2, "loaded")  # where its digit stands, the input moves
    few = words(rates={(1, "arose"): 0.9, (2, "loaded"): 0.5}, pairs=600, skeletons=20)
    assert subspace_search.best_cell(few) == (1, "arose")  # nothing is used, and something moves
    assert subspace_search.best_cell(few.assign(has_controls=False)) is None


def test_new_pairs_share_no_skeleton_with_those_a_cell_was_chosen_on() -> None:
    seen, drawn = pairs_of(), pairs_of(80, seed=5)
    names = ["base_skeleton", "source_skeleton"]
    known = set(seen.pairs[names].to_numpy().ravel()) | {drawn.pairs["source_skeleton"].iloc[0]}
    mixed = Pairs(
        pd.concat([seen.pairs, drawn.pairs.iloc[:1]], ignore_index=True), seen.roles, seen.families, seen.about
    )
    others = subspace_search._others(mixed, drawn)
    assert 0 < len(others) < len(drawn)
    assert not set(others.pairs[names].to_numpy().ravel()) & known


def test_exchanges_from_same_value_sources_must_leave_the_answer() -> None:
    pairs = pairs_of()
    rows = np.arange(len(pairs)) % 2 == 0
    interchanges = subspace_search.with_same_value(VARIABLE.name, pairs, "arose", rows)
    has = rows & (pairs.pairs["same_value"] != "").to_numpy()
    assert has.any()
    assert len(interchanges) == rows.sum() + has.sum()
    assert interchanges.known.all()
    assert interchanges.edited[: rows.sum()].all()
    assert not interchanges.edited[rows.sum() :].any()
    texts = tokens.decode(interchanges.sources[rows.sum() :, 1:].astype(np.uint8))
    assert texts == pairs.pairs["same_value"][has].tolist()
    assert interchanges.source_skeletons[rows.sum() :].tolist() == [skeleton(text) for text in texts]
    np.testing.assert_array_equal(
        interchanges.base_answers[rows.sum() :], interchanges.base_answers[: rows.sum()][has[rows]]
    )


def test_a_model_that_completes_nothing_is_not_searched() -> None:
    model = Model(ModelConfig(n_layers=2, d_model=32, n_heads=2, d_mlp=64, n_ctx=64), seed=3).eval()
    table = subspace_search.subspaces(model, model, VARIABLE, MIXTURE, (1, "arose"), pairs_of(), pairs=20, config=FEW)
    (row,) = table.to_dict("records")
    assert "0 new pairs of" in row["note"]
    assert (row["layer"], row["role"]) == (1, "arose")
    relevance, cells = attributions(model, pairs_of(), np.zeros(len(pairs_of()), bool))
    assert cells.empty
    assert relevance["note"].iloc[0].startswith("0 pairs count")


# --- a model that completes ------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_search_stands_beside_all_its_controls() -> None:
    twin = untrained_twin(micro(), 0)
    cell = (micro().cfg.n_layers - 1, "decision")
    options = {"pairs": 160, "ranks": (1,), "config": FEW}
    table = subspace_search.subspaces(micro(), twin, VARIABLE, MIXTURE, cell, pairs_of(), **options)
    assert (table["note"] == "").all()
    assert table["method"].tolist() == list(METHODS)
    assert table["accuracy"].between(0, 1).all()
    assert table["isolation"].notna().all()  # same-value sources are among the exchanges
    assert (table["role"] == "decision").all()
    again = subspace_search.subspaces(micro(), twin, VARIABLE, MIXTURE, cell, pairs_of(), **options)
    pd.testing.assert_frame_equal(table, again)


@pytest.mark.slow
def test_attribution_is_held_against_patching() -> None:
    pairs = pairs_of()
    relevance, cells = attributions(micro(), pairs, np.ones(len(pairs), bool))
    every = relevance[relevance["component"] == "all"].set_index("kind")
    assert set(every.index) == {"nodes", "edges"}
    assert (every["pearson"] > 0.5).all()
    assert (every["rows"] == [60, 24]).all()
    of_nodes = cells[cells["kind"] == "nodes"]
    assert set(of_nodes["component"]) == {"z", "mlp_out", "resid_post"}
    assert np.corrcoef(of_nodes["estimated"], of_nodes["exact"])[0, 1] > 0.5
