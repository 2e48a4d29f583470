"""Experiments on planted truth, on a model that completes nothing, and on the shipped one."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import cadmus
from cadmus.machine import oracle, tokens, vm
from cadmus.models.config import ModelConfig
from cadmus.models.model import Model
from cadmus.programs import mixture
from cadmus.runtime.artifacts import ArtifactError
from probes.controls.untrained import untrained_twin
from probes.data.activation_cache import weights_digest
from probes.interventions import counterfactuals
from probes.interventions.counterfactuals.judging import ENDS, through_answer
from probes.interventions.counterfactuals.pairs import Pairs
from probes.interventions.counterfactuals.variables import VARIABLES, PairVariable, resolve_variable
from probes.interventions.effects.effects import effects
from probes.interventions.experiment import conditions, experiment
from probes.interventions.experiment import persistence as persistence_module
from probes.interventions.experiment import readability as readability_module
from probes.interventions.experiment.arms import Sources, slots_of
from probes.interventions.experiment.cells import (
    ALIVE,
    Place,
    Spot,
    first_attending,
    is_input_change,
    layers_of,
    spots_of,
)
from probes.interventions.experiment.conditions import Laboratory
from probes.interventions.experiment.experiment import Experiment
from probes.interventions.experiment.persistence import dead_values, halves, persistence
from probes.interventions.experiment.readability import readability, values_of
from probes.interventions.experiment.tables import effects_of, of_what_is_known, outcomes_of
from tests.probes.interventions.effects.planted_outcomes import planted

MIXTURE = mixture.load("default")
SMALL = ModelConfig(n_layers=2, d_model=32, n_heads=2, d_mlp=64, n_ctx=64)


@cache
def pairs_of(variable: str, n: int = 24) -> Pairs:
    return counterfactuals.draw(variable, MIXTURE, n, seed=0, kinds=("discriminating",))


@cache
def untrained(seed: int = 3) -> Model:
    return Model(SMALL, seed=seed).eval()


@cache
def shipped() -> Model:
    return cadmus.load_model()


# --- cells -----------------------------------------------------------------------------------------------------------


def test_spans_patch_all_their_roles_at_once() -> None:
    pairs = pairs_of("reg")
    whole = Place.of(pairs, Spot("arose", "from"))
    single = {role: pairs.positions(role) for role in ALIVE}
    for row in range(len(pairs)):
        expected = {p for role in ALIVE for p in single[role][row].tolist() if p >= 0}
        assert set(whole.base[row].tolist()) - {-1} == expected
    assert whole.role is None
    assert whole.present.all()
    up_to = Place.of(pairs, Spot("stored", "up_to"))
    expected = {p for role in ("arose", "stored") for p in single[role][0].tolist() if p >= 0}
    assert set(up_to.base[0].tolist()) - {-1} == expected


def test_an_edit_from_where_a_value_arose_is_that_of_the_whole_value() -> None:
    """So the joint edit of a span up to the loads asks for what the machine asks for when both were other values."""
    pairs = pairs_of("reg")
    place = Place.of(pairs, Spot("stored", "up_to"))
    for row, edit in enumerate(place.edits):
        assert edit.at >= 0
        whole = pairs.edits(None)[row]
        base = pairs.pairs["base"][row]
        states = [oracle.edit(base, one.at, one.places).states[-1] for one in (edit, whole)]
        assert states[0].stack == states[1].stack


def test_layers_and_input_changes() -> None:
    pairs = pairs_of("reg")
    model = untrained()
    assert layers_of(model, None, False) == [-1, 0, 1]
    assert layers_of(shipped(), None, True) == [1, 3, 5, 7]
    assert first_attending(model, pairs.sequences("base")) == 0
    place = Place.of(pairs, Spot("arose"))
    assert is_input_change(-1, place, 0)
    assert not is_input_change(0, place, 0)
    literal = (pairs.pairs["stratum"] == "literal").to_numpy()
    assert is_input_change(0, Place.of(pairs.select(literal), Spot("arose")), 1)  # digits differ
    assert not is_input_change(0, Place.of(pairs, Spot("stored")), 1)  # stores do not
    with pytest.raises(ValueError, match=r"layers \[2\] are not of the model's, 0 ... 1"):
        layers_of(model, [2], False)


# --- conditions ------------------------------------------------------------------------------------------------------


def test_places_that_lie_alike_are_patched_once() -> None:
    pairs = pairs_of("reg")
    places = [Place.of(pairs, spot) for spot in spots_of(pairs, None, True)]
    wanted = np.stack([place.present for place in places])
    rows = np.arange(len(pairs))
    done: list[set] = [set() for _ in rows]
    seen = np.zeros(wanted.shape, int)
    for positions, sources, owners in slots_of(places, wanted, rows):
        seen += owners
        for row in rows:
            mine = np.flatnonzero(owners[:, row])
            key = tuple(p for p in positions[row].tolist() if p >= 0)
            assert (key != ()) == (len(mine) > 0)
            if key:
                assert key not in done[row]
                done[row].add(key)
            for place in mine:
                assert key == tuple(p for p in places[place].base[row].tolist() if p >= 0)
                assert sources[row][: len(key)].tolist() == places[place].source[row][: len(key)].tolist()
    assert (seen == wanted).all()


def test_answers_end_with_their_truth_value() -> None:
    assert through_answer("12+3=.", 3) == "12+3="
    assert through_answer("12+3.", 3) == "12+3."
    assert through_answer("1=2=3<4", 4) == "1=2=3<"
    assert through_answer("12+345", 3) == "12+345"


@pytest.mark.parametrize("family", sorted({name for variable in VARIABLES.values() for name in variable.families}))
def test_a_truth_value_of_an_answer_stays_on_the_stack(family: str) -> None:
    """So a text whose first answer is false need not be written further."""
    (one,) = [entry for entry in MIXTURE.families if entry.name == family]
    texts = tokens.decode(one.generate(60, np.random.default_rng(0)))
    for text in texts:
        for cut in one.decisions(text):
            begun = through_answer(text, cut)
            if begun[-1] not in ENDS:
                continue
            after = vm.run(begun).states[-1].stack
            assert vm.run(text).outputs[: len(after)] == after, text


def test_stages_give_what_whole_completions_give() -> None:
    """Writing answers first, and rests only where they matter, changes no success."""
    pairs = pairs_of("compare.first", 12)
    model = shipped()
    places = [Place.of(pairs, spot) for spot in spots_of(pairs, None, False)]
    lab = Laboratory(model, None, pairs, places, [2, 3], 0)
    measured = lab.measure(True)
    assert measured.has_controls.all()
    wanted = np.broadcast_to(lab.counts, (2, *lab.counts.shape))
    sources = Sources(model, pairs, places, np.arange(len(pairs)), lab.layers, np.ones(2, bool), 0)
    for name in ("interchange", "third_value", "same_value", "random"):
        whole = lab._write(measured, sources, {name: wanted}, lab.rest_tokens, "")[name]
        for layer in range(2):
            for number, place in enumerate(places):
                rows = np.flatnonzero(wanted[layer, number])
                table = place.judge(rows, whole[layer, number, rows].tolist())
                assert (measured.success[name][layer, number, rows] == table["success"].to_numpy()).all()
    assert measured.success["interchange"][1, 0].mean() > 0.7  # after layer 3, where it arose
    assert not measured.success["interchange"][~wanted].any()
    assert measured.moved[1, 0][measured.success["interchange"][1, 0]].mean() > 0.3  # probability of the edited answer
    assert not measured.moved[~wanted].any()


@cache
def measured_some() -> tuple[Laboratory, conditions.Measured]:
    """The shipped model on pairs some of which lack a third value's source; none has one of the same value."""
    pairs = pairs_of("compare.first", 40)
    third = pairs.pairs["third_value"].where(np.arange(len(pairs)) % 3 > 0, "")
    pairs = replace(pairs, pairs=pairs.pairs.assign(third_value=third, same_value=""))
    places = [Place.of(pairs, spot) for spot in spots_of(pairs, None, False)]
    lab = Laboratory(shipped(), untrained_twin(shipped(), 0), pairs, places, [2, 3], 0)
    return lab, lab.measure(True)


def test_a_pair_without_a_source_has_no_part_in_that_control() -> None:
    lab, measured = measured_some()
    flag = {"stratum": "computed", "layer": 3, "role": "arose", "readable": True}
    outcomes, known = outcomes_of(lab, measured, resolve_variable("compare.first"))
    table = effects_of(outcomes, known, lab, measured, pd.DataFrame([flag]), 0)
    assert [flag for flag in table["readable"] if flag is not None] == [True]
    has = (lab.pairs.pairs["third_value"] != "").to_numpy()
    (row,) = np.flatnonzero((table["layer"] == 3) & (table["role"] == "arose") & (table["span"] == "single"))
    mine = outcomes.counting[row] & has
    assert 0 < mine.sum() < outcomes.counting[row].sum()
    third = measured.success["third_value"][1, 0]
    assert table["third_value"][row] == pytest.approx(third[mine].mean())
    gained = measured.success["interchange"][1, 0].astype(float) - third
    assert table["d"][row] <= gained[mine].mean() + 1e-12
    assert table[["same_value", "damage"]].isna().all(axis=None)
    assert (table["best_control"] != "same_value").all()
    assert table["d"].notna().any()
    assert not measured.success["same_value"].any()
    written = conditions.profile_table(measured).groupby("condition")["texts"].sum()
    assert written["third_value"] > 0
    assert written["same_value"] == 0


def test_chance_and_the_positive_control_are_of_the_pairs_that_have_them() -> None:
    outcomes = planted(rates={}, positive=0.0)
    possible = np.arange(300) % 2 == 0
    outcomes = replace(outcomes, positive=possible, chance=np.where(possible, 0.4, 0.0))
    before = effects(outcomes, resamples=50)
    table = of_what_is_known(before, outcomes, {"positive": possible, "chance": np.zeros(300, bool)})
    assert before["positive"].max() < 0.7
    assert (table["positive"] == 1).all()
    assert (table["positive_low"] > 0.9).all()
    assert table[["chance", "chance_low", "chance_high"]].isna().all(axis=None)
    pd.testing.assert_frame_equal(table.filter(["d", "d_low", "p_above"]), before.filter(["d", "d_low", "p_above"]))


def test_layers_are_chosen_and_scored_on_other_skeletons() -> None:
    lab, measured = measured_some()
    names = [lab.pairs.pairs[name] for name in ("base_skeleton", "source_skeleton")]
    chosen, scored = halves(*names, lab.seed)
    assert chosen.any()
    assert scored.any()
    assert not {name for each in names for name in each[chosen]} & {name for each in names for name in each[scored]}
    table = persistence(lab, measured)
    assert len(table)
    strata = lab.pairs.pairs["stratum"].to_numpy()
    places = {(place.spot.role, place.spot.span): number for number, place in enumerate(lab.places)}
    for (stratum, role, span, layer), rows in table.groupby(["stratum", "role", "span", "layer"]):
        mine = measured.counts[places[role, span]] & (strata == stratum)
        success = measured.success["interchange"][:, places[role, span]]
        assert layer == lab.layers[success[:, mine & chosen].sum(1).argmax()]
        assert rows["pairs"].sum() == (mine & scored).sum()
        moved = (rows["accuracy"] * rows["pairs"]).sum()
        assert moved == pytest.approx(success[lab.layers.index(layer), mine & scored].sum())


# --- readability -----------------------------------------------------------------------------------------------------


def test_programs_of_probes_hold_their_values() -> None:
    data = values_of(resolve_variable("reg"), MIXTURE, 60, seed=1)
    assert set(np.unique(data.fold)) == {0, 1, 2}
    for row, text in enumerate(tokens.decode(data.sequences[:, 1:])):
        loaded = data.positions["loaded"][row]
        if loaded >= 0:
            top = vm.run(text[:loaded]).states[-1].stack[-1]
            assert top == vm.Int(int(data.v[row])), text
    folds = pd.Series(data.fold).groupby(data.skeletons).nunique()
    assert (folds == 1).all()


def test_probes_read_what_is_planted_and_nothing_else() -> None:
    data = values_of(resolve_variable("reg"), MIXTURE, 600, seed=2)
    rng = np.random.default_rng(0)
    codes = rng.standard_normal((400, 64))
    noise = 0.1 * rng.standard_normal((len(data.v), 64))
    scoring, fitting = ((data.positions["loaded"] >= 0) & (data.fold == fold) for fold in (2, 0))
    planted = readability_module._probe((codes[data.v + 200] + noise).astype(np.float32), data, "loaded")
    absent = readability_module._probe(noise.astype(np.float32), data, "loaded")
    frequent = np.isin(data.v, readability_module._classes(data, data.positions["loaded"] >= 0))
    assert planted[scoring & frequent].mean() > 0.98
    assert absent[scoring].mean() < 0.15
    assert not planted[fitting].any()
    assert readability_module._validation(planted, data, "loaded") > 0.9
    assert readability_module._validation(planted & scoring, data, "loaded") == 0


def test_digits_that_are_read_do_not_make_computed_values_readable() -> None:
    data = values_of(resolve_variable("reg"), MIXTURE, 800, seed=2)
    is_literal = (data.strata == "literal")[None]
    nothing = np.zeros_like(is_literal)
    correct = {"accuracy": is_literal, **dict.fromkeys(readability_module.COLUMNS[1:], nothing)}
    for stratum in ("literal", "computed"):
        (row,) = readability_module._table([(0, "arose")], correct, data, stratum, 0).to_dict("records")
        assert row["stratum"] == stratum
        assert row["programs"] == ((data.fold == 2) & (data.strata == stratum) & (data.positions["arose"] >= 0)).sum()
        assert row["readable"] == row["read"] == (stratum == "literal")
        assert row["accuracy"] == (stratum == "literal")


@pytest.mark.slow
def test_an_untrained_model_reads_nothing_beyond_its_twin() -> None:
    table = readability(untrained(3), untrained(4), resolve_variable("compare.first"), MIXTURE, [0, 1], programs=500)
    assert not table["readable"].dropna().any()
    assert not table["read"].dropna().any()
    assert (table["accuracy"] < 0.6).all()


# --- experiments -----------------------------------------------------------------------------------------------------


@cache
def of_nothing() -> Experiment:
    return experiment.test(untrained(), "compare.first", pairs=12, quick=True, seed=1)


def test_a_model_that_completes_nothing_has_marked_rows() -> None:
    result = of_nothing()
    assert (result.effects["pairs"] == 0).all()
    assert result.effects["accuracy"].isna().all()
    assert result.effects["note"].str.contains("pairs counts").all()
    (row,) = result.summary.to_dict("records")
    assert row["used"] == "undecided"
    assert "completes too little: 0 of 12 pairs count" in row["notes"]
    assert repr(result) == "Experiment(compare.first: computed: undecided; 12 pairs)"
    assert "undecided" in result._repr_html_()


def test_experiments_are_saved_and_loaded(tmp_path: Path) -> None:
    tables = {
        name: pd.DataFrame({"layer": [0, 1], "role": ["arose", "stored"], name: [0.5, np.nan]})
        for name in (
            "persistence",
            "dead",
            "heads",
            "edges",
            "mechanism",
            "knockouts",
            "paths",
            "subspaces",
            "components",
        )
    }
    readable = pd.concat([of_nothing().readable] * 2, ignore_index=True)
    flags = readable.assign(read=[None, True, False, *readable["read"].iloc[3:]])
    result = replace(of_nothing(), readable=flags.astype({"read": object}), **tables)
    folder = result.save(tmp_path / "a")
    again = Experiment.load(folder, result.about["fingerprint"])
    assert len(again.attention)
    for name in experiment._TABLES:
        mine, other = getattr(result, name), getattr(again, name)
        assert list(mine) == list(other)
        for column in mine:
            expected = mine[column]
            if column in ("readable", "read") and name != "summary":
                assert {type(flag) for flag in other[column]} <= {bool, type(None)}  # True, False or None again
            if expected.dtype == object:  # what is missing is None there
                expected = pd.Series(
                    [None if pd.isna(entry) else entry for entry in expected], dtype=object, name=column
                )
            pd.testing.assert_series_equal(expected, other[column], check_dtype=False)
    pd.testing.assert_frame_equal(result.pairs.pairs, again.pairs.pairs)
    assert again.about == result.about
    assert again.variable == "compare.first"
    with pytest.raises(ArtifactError, match="another model, mixture or configuration"):
        Experiment.load(folder, "0" * 16)
    with pytest.raises(ArtifactError):
        Experiment.load(tmp_path / "b")


@pytest.mark.slow
def test_a_full_experiment_has_its_tables_or_says_why_not() -> None:
    result = experiment.test(untrained(), "compare.first", pairs=12, full=True, seed=1)
    (row,) = result.subspaces.to_dict("records")
    assert row["note"] == "no exchange at a single role moves answers beyond its controls"
    (row,) = result.attribution.to_dict("records")
    assert row["note"].startswith("0 pairs count and have answers that differ in a token")
    assert result.components.empty
    assert result.effects["has_controls"].all()
    assert of_nothing().subspaces.empty


def test_fingerprints_say_what_was_made_of_what() -> None:
    config = {"seed": 0}
    mine = experiment.about(untrained(3), MIXTURE, config)["fingerprint"]
    assert mine == experiment.about(Model(SMALL, seed=3), MIXTURE, config)["fingerprint"]
    assert mine != experiment.about(untrained(4), MIXTURE, config)["fingerprint"]
    assert mine != experiment.about(untrained(3), MIXTURE, {"seed": 1})["fingerprint"]


def fingerprint(variable: str | PairVariable = "reg", pairs: int | Pairs = 24, twin: Model | None = None) -> str:
    config = experiment._config(resolve_variable(variable), pairs, 0, twin, None, None, False, False)
    return experiment.about(untrained(), MIXTURE, config)["fingerprint"]


def test_fingerprints_tell_apart_whatever_is_given(tmp_path: Path) -> None:
    pairs, variable = pairs_of("reg"), VARIABLES["reg"]
    longer = replace(pairs.family("register"), max_stores=pairs.family("register").max_stores + 1)
    several = [
        fingerprint(),
        fingerprint(twin=untrained(3)),
        fingerprint(twin=untrained(4)),
        *(fingerprint(replace(variable, **{name: value})) for name, value in (("reads", 2), ("in_range", False))),
        fingerprint(replace(variable, occurrences=variable.occurrences[:1])),
        fingerprint(replace(variable, occurrences=(replace(variable.occurrences[0], taken_by="+"),))),
        fingerprint(pairs=pairs),
        fingerprint(pairs=pairs.select(np.arange(12))),
        fingerprint(pairs=replace(pairs, roles=pairs.roles.iloc[:-1])),
        fingerprint(pairs=replace(pairs, families=(longer,))),
    ]
    for name in ("base", "source", "cut", "kind", "edited_answer"):
        changed = pairs.pairs.assign(**{name: pairs.pairs[name].iloc[::-1].to_numpy()})
        several.append(fingerprint(pairs=replace(pairs, pairs=changed.assign(kind=changed["kind"] + name))))
    assert len(set(several)) == len(several)
    pairs.save(tmp_path / "pairs")
    assert fingerprint(pairs=Pairs.load(tmp_path / "pairs")) == fingerprint(pairs=pairs)
    assert fingerprint(replace(variable)) == fingerprint(), "a row of the table is its name"
    assert fingerprint(twin=Model(SMALL, seed=3)) == fingerprint(twin=untrained(3))


def test_what_is_given_is_in_what_an_experiment_is_about(tmp_path: Path) -> None:
    names = {"seed": 1, "layers": None, "roles": None, "quick": True, "full": False}
    assert of_nothing().about["config"] == {"variable": "compare.first", "pairs": 12, **names}
    variable = replace(VARIABLES["compare.first"], in_range=False)
    twin = untrained(4)
    result = experiment.test(
        untrained(), variable, pairs=of_nothing().pairs, untrained=twin, layers=[-1], quick=True, seed=1
    )
    config = result.about["config"]
    assert config["variable"] == repr(variable)
    assert config["pairs"] == of_nothing().pairs.fingerprint
    assert config["untrained"] == weights_digest(twin)[:16]
    folder = result.save(tmp_path / "a")
    assert Experiment.load(folder, result.about["fingerprint"]).about == result.about


def test_an_experiment_before_the_first_block_alone_has_no_dead_values() -> None:
    """There a patch is another input: nothing that it does is said of a value."""
    result = experiment.test(untrained(), "reg.a", pairs=6, layers=[-1], quick=True)
    assert result.dead is None
    assert set(result.effects["layer"]) == {-1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variable": "reg.e"}, "unknown variable 'reg.e'"),
        ({"roles": ["lodged"]}, "unknown role 'lodged'"),
        ({"roles": ["stored"]}, "compare.first has no role 'stored' in these pairs"),
        ({"layers": [5]}, "0 ... 1"),
        ({"pairs": 0}, "0 pairs are asked for"),
    ],
)
def test_bad_input_is_said_before_anything_runs(options: dict, message: str) -> None:
    arguments = {"variable": "compare.first", "pairs": 6, **options}
    with pytest.raises(ValueError, match=message):
        experiment.test(untrained(), arguments.pop("variable"), **arguments)


def test_a_model_without_room_for_an_answer_is_refused() -> None:
    short = Model(ModelConfig(n_layers=1, d_model=16, n_heads=1, d_mlp=16, n_ctx=8), seed=0).eval()
    with pytest.raises(ValueError, match="no room for an answer in n_ctx = 8"):
        experiment.test(short, "compare.first", pairs=4)


def test_dead_values_of_an_untrained_model_are_marked() -> None:
    table = dead_values(untrained(), resolve_variable("reg.a"), MIXTURE, [0, 1], pairs=4)
    assert table is not None
    assert set(table["role"]) == {"arose", "stored", "overwritten"}
    assert (table["pairs"] == 0).all()
    assert (table["note"] == "the model answers none of these programs right, so nothing can be said").all()
    assert table[["changed", "wrong", "by_dead"]].isna().all(axis=None)
    assert dead_values(untrained(), resolve_variable("compare.first"), MIXTURE, [0]) is None


def test_dead_values_are_of_all_families_alike() -> None:
    families = [family for name in ("register", "random") for family in MIXTURE.families if family.name == name]
    prompts = persistence_module._dead_prompts(families, MIXTURE, ["a", "b", "c", "d"], 2, 0)
    assert set(prompts["family"]) == {"register", "random"}


@pytest.mark.slow
def test_the_first_number_is_used_where_it_arose_and_spent_later() -> None:
    """On the shipped model; the same again with the same seed."""
    first, second = (experiment.test(shipped(), "compare.first", pairs=40, quick=True) for _ in range(2))
    pd.testing.assert_frame_equal(first.effects, second.effects)
    table = first.verdicts[first.verdicts["span"] == "single"].set_index(["layer", "role"])
    assert table.loc[(3, "arose"), "verdict"] == "used"
    assert table.loc[(7, "arose"), "accuracy"] == 0
    assert (table["untrained"].dropna() < 0.05).all()
    assert np.any(first.readable.set_index(["layer", "role"]).loc[(5, "decision"), "readable"])
    assert first.effects["positive"].max() > 0.9
