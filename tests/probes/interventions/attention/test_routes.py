"""Routes of values: heads and edges that are planted by hand are found, and no others."""

from dataclasses import replace
from functools import cache

import numpy as np
import pandas as pd
import pytest

from analyses.studies.calibration.planted import Planted, plant
from cadmus.machine import tokens, vm
from cadmus.runtime.seeds import generator
from probes.interventions.attention.answers import Bases, EdgeSet, Judge, answers, judged
from probes.interventions.attention.flow import _table as attention_table
from probes.interventions.attention.flow import attention_flow, data_flow
from probes.interventions.attention.head_interchange import Exchange, heads_by_interchange
from probes.interventions.attention.knockouts import LOAD, Move, _cell, knockouts
from probes.interventions.attention.mass_controls import Finder, Prompt, of_equal_mass

N = 40


@cache
def model(seed: int = 5) -> Planted:
    return plant("lookup", "rotated", seed)


def register_of(planted: Planted) -> str:
    return planted.form[-1]


def final_store(planted: Planted) -> int:
    """The model's position of the store that the load reads."""
    return planted.form.rindex(register_of(planted).upper()) + 1


@cache
def programs() -> np.ndarray:
    """Programs of the planted form, all digits of each distinct: uint8 [N, length]."""
    rng = generator("test routes", 0)
    digits = np.array([rng.permutation(10)[: model().form.count("0")] for _ in range(N)])
    return model().programs(digits)


def says(digits: np.ndarray) -> Judge:
    """Judges whether the answer is a digit, int [N], behind the form."""
    cut = model().length
    return Judge(lambda rows, texts: np.array([t[cut : cut + 1] == str(digits[r]) for r, t in zip(rows, texts)], bool))


def bases() -> Bases:
    texts = tokens.decode(programs())
    prompts = tuple(text.removesuffix(vm.END) for text in texts)
    right = model().answers(programs())
    own = tuple(text + str(digit) for text, digit in zip(prompts, right))
    return Bases(prompts, own, says(right), np.array(prompts), stop_at="")


def value_edges() -> pd.DataFrame:
    """The edges of the value that is loaded, and of no other: `data_flow` knows which value each is of."""
    edges = data_flow(programs()).rename(columns={"program": "row"})
    loaded = edges[edges["kind"] == "load_store"].set_index("row")["value"]
    return edges[edges["value"].to_numpy() == loaded[edges["row"]].to_numpy()]


@cache
def knocked() -> pd.DataFrame:
    load, store = model().length, final_store(model())
    to = next(p + 1 for p, token in enumerate(model().form) if token in "ABC" and p + 1 != store)
    other = programs()[:, to - 2]
    rows = [(row, "load_store", load, store, to) for row in range(N)]
    move = Move(pd.DataFrame(rows, columns=["row", "kind", "query", "key", "to"]), says(other))
    return knockouts(model().model, bases(), value_edges(), kinds=("load_store", LOAD, "store"), move=move)


def true_heads(kind: str) -> set[tuple[int, int]]:
    """Layer and head of planted edges: to the store from the load, or from the store to the digit."""
    load = model().length
    return {(layer, head) for layer, head, query, _ in model().edges if (query == load) == (kind == "load_store")}


@pytest.mark.parametrize("kind", ["load_store", "store"])
def test_blocking_finds_the_heads_of_planted_edges_and_no_others(kind: str) -> None:
    table = knocked()[(knocked()["kind"] == kind) & (knocked()["head"] >= 0)]
    needed = table[table["needed"]]
    assert set(zip(needed["layer"], needed["head"])) == true_heads(kind)
    assert (needed["broken"] > 0.7).all()
    assert (needed["d_low"] > 0.5).all()
    assert (needed["matched"] >= 0.8).all()


def test_blocking_whole_layers_finds_the_planted_layer_alone() -> None:
    table = knocked()[(knocked()["kind"] == LOAD) & (knocked()["head"] < 0)]
    layers = {layer for layer, _ in true_heads("load_store")}
    assert set(table[table["needed"] & (table["layer"] >= 0)]["layer"]) == layers
    assert (table["broken"][~table["layer"].isin([*layers, -1])] == 0).all()
    assert not (table["kind"].eq(LOAD) & table["head"].ge(0)).any()


def test_in_the_last_layer_controls_are_edges_of_the_same_query() -> None:
    last = model(0)  # whose load reads in the last layer, where nothing but the last token's attention matters
    digits = np.array([generator("test routes, last", k).permutation(10)[:3] for k in range(N)])
    texts = [text.removesuffix(vm.END) for text in tokens.decode(last.programs(digits))]
    right = last.answers(last.programs(digits))
    own = Bases(tuple(texts), tuple(t + str(d) for t, d in zip(texts, right)), says(right), np.arange(N), stop_at="")
    edges = data_flow(own.arrays()).rename(columns={"program": "row"})
    table = knockouts(last.model, own, edges, kinds=("load_store",)).set_index(["layer", "head"])
    assert table["matched"][4, 0] >= 0.8  # in other heads: the own one looks nowhere else
    assert np.isnan(table["no_flow"][4, 0])  # the query of the answer takes a value
    assert (table["controls"][4, 0], table["matched_no_flow"][4, 0]) == ("elsewhere", 0)  # and the row says so
    assert table["needed"][4, 0]


def test_controls_have_the_mass_or_there_are_none() -> None:
    rng = generator("test routes, mass", 0)
    n_none = 0
    for _ in range(200):
        attention = rng.dirichlet(np.full(8, 0.3), (2, 8)) * (rng.random((2, 8, 8)) < 0.5)  # [head, query, key]
        mass = rng.uniform(0.1, 1)
        edges = of_equal_mass(attention, mass, rng)
        if edges is None:
            n_none += 1
            assert not ((attention >= 0.9 * mass) & (attention <= 1.1 * mass)).any()
        else:
            assert abs(attention[tuple(edges.T)].sum() - mass) <= 0.1 * mass + 1e-12
            assert len(np.unique(edges, axis=0)) == len(edges)
    assert n_none < 100
    assert of_equal_mass(np.full((1, 3, 3), 0.01), 0.9, rng) is None


def test_heads_of_a_layer_share_no_control() -> None:
    attention = np.zeros((3, 4, 4))
    attention[:2, 3, 1] = 0.5  # two heads look along the flow and nowhere else
    attention[2, 2, 1] = 0.5  # a third has one edge that weighs as much
    prompt = Prompt(0, np.concatenate([attention, attention]), 3, np.array([[3, 1]]))
    finder, masses = Finder(2, 3), np.zeros((6, 1))
    finder.find(prompt, "store", np.array([[3, 1]]), masses, generator("test routes, shared", 0))
    found_heads = [h for h in range(3) if ("store", h, "elsewhere") in finder.matches]
    assert len(found_heads) == 1
    assert _cell("store", 0, found_heads[0], found_heads, {"store": masses}, finder).rows("elsewhere").all()
    assert not _cell("store", 0, -1, range(3), {"store": masses}, finder).rows("elsewhere").any()


def test_a_layer_is_matched_by_the_mass_of_its_controls_together() -> None:
    masses = {"store": np.array([[0.5, 0.5], [0.5, 0.5]])}  # [head, prompt]
    own = [np.array([[row, 0, head, 3, 1] for row in range(2)]) for head in range(2)]
    finder = Finder(1, 2, {("store", head): [own[head]] for head in range(2)})
    for head, weights in enumerate([[0.5, 0.46], [0.5, 0.4]]):
        finder.matches["store", head, "elsewhere"] = [own[head] - [0, 0, 0, 1, 1]]
        finder.weights["store", head, "elsewhere"] = [np.array(weights)]
    assert _cell("store", 0, -1, range(2), masses, finder).rows("elsewhere").tolist() == [True, False]


def test_a_moved_edge_makes_the_answer_that_of_the_other_store() -> None:
    ((layer, head),) = true_heads("load_store")
    row = knocked().set_index(["kind", "layer", "head"]).loc["load_store", layer, head]
    assert row["moved"] > 0.9
    assert row["moved_control"] < 0.9  # where it is merely blocked, attention may go to any store


def exchange_of_digits() -> Exchange:
    """The loaded number is exchanged for the next one, or for a third one, at all tokens that hold it."""
    planted, rng = model(), generator("test routes, sources", 0)
    slots = np.flatnonzero(np.array(list(planted.form)) == "0")
    column = slots[planted.slot]
    sources = {}
    for name, shift in (("source", 1), ("third_value", 2)):
        other = rng.integers(0, 10, (N, len(slots)))
        other[:, planted.slot] = (programs()[:, column] + shift) % 10
        positions = np.tile([column + 1, final_store(planted), planted.length], (N, 1))
        sources[name] = tokens.sequences(planted.programs(other)), positions
    wanted = (programs()[:, column].astype(int) + 1) % 10
    skeletons = np.arange(N)
    return Exchange(bases(), sources["source"][1], sources, says(wanted), np.ones(N, bool), skeletons)


def test_interchange_finds_the_heads_that_carry_the_value() -> None:
    planted = model()
    table = heads_by_interchange(planted.model, exchange_of_digits())
    used = table[table["used"]]
    assert set(zip(used["layer"], used["head"])) == {(layer, head) for layer, head, *_ in planted.edges}
    assert (used["accuracy"] > 0.9).all()
    assert (used["third_value"] < 0.1).all()
    assert not table[~table["controlled"]]["used"].any()
    assert len(table) == 25


@pytest.mark.parametrize("n_skeletons", [29, 30])
def test_attention_in_programs_of_few_skeletons_claims_nothing(n_skeletons: int) -> None:
    sums = np.zeros((60, 1, 2, 4))
    sums[..., 3] = 1  # a query each
    sums[:, 0, 0, 0] = 0.9  # of which the first head gives this much to the edge
    sums[..., 1] = 0.1
    table = attention_table(sums, np.arange(60) % n_skeletons, ["store"], 2, False, 0)
    assert (table["clusters"] == n_skeletons).all()
    assert table["attends"].tolist() == [n_skeletons == 30, False]
    assert (table["note"] == ("" if n_skeletons == 30 else "fewer than 30 skeletons (29)")).all()


@pytest.mark.parametrize("n_without", [N // 2, N])
def test_pairs_without_a_third_value_are_no_control_that_failed(n_without: int) -> None:
    exchange = exchange_of_digits()
    programs_there, positions = exchange.sources["source"]  # as a control it succeeds as often as the exchange does
    third = np.where(np.arange(N)[:, None] < n_without, -1, positions)
    exchange = replace(exchange, sources={**exchange.sources, "third_value": (programs_there, third)})
    table = heads_by_interchange(model().model, exchange)
    carries = table[table["controlled"]]
    if n_without == N:
        assert table["third_value"].isna().all()
        assert carries["used"].any()
    else:
        assert (carries["third_value"] > 0.9).all()  # and not half of that
        assert not carries["used"].any()


def test_an_exchange_without_a_pair_that_counts_is_an_error() -> None:
    nothing = np.zeros((N, 1), int) - 1, np.zeros((N, 1), int) - 1
    exchange = Exchange(bases(), nothing[0], {"source": nothing}, says(np.zeros(N)), np.zeros(N, bool), np.arange(N))
    with pytest.raises(ValueError, match="no pair counts"):
        heads_by_interchange(model().model, exchange)


def test_answers_are_those_that_differ_and_judged_as_they_are() -> None:
    ((layer, head),) = true_heads("load_store")
    own = bases()
    edges = np.array([(row, layer, head, model().length, final_store(model())) for row in range(0, N, 2)])
    nothing = np.array([(row, layer, head, 2, 1) for row in range(N)])
    treatments = [EdgeSet(N, edges), EdgeSet(N, nothing)]
    texts = answers(model().model, own, treatments)
    assert set(texts[0]) <= set(range(0, N, 2))
    assert len(texts[0]) > N / 4
    assert all(text != own.own[row] and text.startswith(own.prompts[row]) for row, text in texts[0].items())
    right = judged(model().model, own, treatments, texts, own.is_right, own.right())
    assert right[0, 1::2].all()
    assert not right[0, sorted(texts[0])].any()
    assert right[1, sorted(set(range(N)) - set(texts[1]))].all()


# --- attention -------------------------------------------------------------------------------------------------------


@cache
def many_forms() -> np.ndarray:
    """Programs with every order of stores of the length of the planted form, one load each."""
    rng = generator("test routes, forms", 0)
    texts = []
    for stores in np.ndindex(3, 3, 3):
        for register in sorted(set(stores)):
            digits = rng.permutation(10)[:3]
            texts.append("".join(f"{d}{'ABC'[k]}" for d, k in zip(digits, stores)) + "abc"[register])
    return tokens.encode(texts)


def test_a_head_that_finds_the_last_store_attends_beyond_tokens_and_distance() -> None:
    ((layer, head),) = true_heads("load_store")
    table = attention_flow(model().model, many_forms(), kinds=("load_store", "store"))
    rows = table[table["kind"] == "load_store"].set_index(["layer", "head"])
    assert set(rows.index[rows["attends"]]) == {(layer, head)}
    assert rows["mass"][layer, head] > 0.95
    assert rows["d_low"][layer, head] > 0.05


def test_a_head_that_looks_one_token_back_is_what_the_baseline_expects() -> None:
    ((layer, head),) = true_heads("store")
    table = attention_flow(model().model, many_forms(), kinds=("store",)).set_index(["layer", "head"])
    assert table["mass"][layer, head] > 0.95
    assert table["baseline"][layer, head] > 0.9
    assert not table["attends"].any()


def test_the_twin_takes_what_it_has_too() -> None:
    same = attention_flow(model().model, many_forms(), kinds=("load_store",), untrained=model().model)
    assert np.allclose(same["mass"], same["untrained"])
    assert not same["attends"].any()


def test_what_is_asked_of_attention_is_checked() -> None:
    with pytest.raises(ValueError, match="unknown kind of edges 'loads'"):
        attention_flow(model().model, many_forms(), kinds=("loads",))
    with pytest.raises(ValueError, match="one skeleton"):
        attention_flow(model().model, programs())
