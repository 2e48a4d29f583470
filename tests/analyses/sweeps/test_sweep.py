"""What a sweep asks for: read from TOML, checked at construction, errors of one line."""

import re
from pathlib import Path

import pytest

from analyses.sweeps.cells import cells_of
from analyses.sweeps.sweep import Factor, Measurements
from analyses.sweeps.sweep_files import load, sweep_from_stored
from cadmus import shipped
from tests.analyses.sweeps.tiny import tables, tiny, write


def refusal(**changes) -> str:
    """The one line by which the tiny sweep with these changes is refused."""
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as error:
        tiny(**changes)
    return str(error.value)


def test_a_file_and_its_tables_are_one(tmp_path):
    assert load(write(tmp_path)) == tiny()


def test_what_a_folder_stores_needs_no_other_file():
    sweep = tiny()
    stored = sweep_from_stored(sweep.to_dict())
    assert stored.to_dict() == sweep.to_dict()
    assert stored.fingerprint == sweep.fingerprint


@pytest.mark.parametrize("name", shipped.names("sweeps"))
def test_shipped_sweeps_load_and_keep_to_their_budget(name):
    sweep = load(name)
    assert sweep.name == name
    assert len(sweep.seeds) >= 5
    assert sweep.pilot is not None
    assert sweep.hypotheses
    assert {hypothesis.predictor for hypothesis in sweep.hypotheses}


def test_the_three_studies_are_at_most_a_hundred_models():
    total = 0
    for name in ("compound-divergence", "diversity", "read-distance"):
        sweep = load(name)
        n = len(sweep.seeds)
        for factor in sweep.factors:
            n *= len(factor.levels)
        total += n
    assert total <= 100


def test_unknown_keys_are_refused_with_what_may_have_been_meant():
    assert "sweep: unknown key 'respnses' (did you mean 'responses'?)" in refusal(respnses=[])
    assert "pilot: unknown key 'acuracy' (did you mean 'accuracy'?)" in refusal(pilot={"acuracy": 1.0})
    assert "measure: unknown field 'pair' (did you mean 'pairs'?)" in refusal(measure={"pair": 1})
    assert "factor: unknown key 'level' (did you mean 'levels'?)" in refusal(factor=[{"name": "x", "level": [1, 2]}])
    assert "recipe: unknown key 'trian' (did you mean 'train'?)" in refusal(recipe={"trian": {}})
    assert "a sweep needs mixture" in refusal(mixture=None)


def test_values_out_of_bounds_are_refused():
    assert "varies nothing; add a [[factor]]" in refusal(factor=[])
    assert "levels = [1] must be two or more different ones" in refusal(factor=[{"name": "skeletons", "levels": [1]}])
    assert "the table has a column of that name" in refusal(factor=[{"name": "seed", "levels": [1, 2]}])
    assert "seeds = [0, 0] must be different whole numbers from 0" in refusal(seeds=[0, 0])
    assert "train: seed would be ignored; name it in seeds = [...]" in refusal(recipe={"train": {"seed": 3}})
    assert "measure: pairs = 3 must be 10 or more" in refusal(measure={"pairs": 3})
    twice = [{"name": "skeletons", "levels": [1, 2]}, {"name": "pool", "knob": "skeletons", "levels": [1, 2]}]
    assert "knob of a factor 'skeletons' stands there twice; neither could vary alone" in refusal(factor=twice)


def test_what_is_no_table_is_refused():
    assert "measure = 3 must be a table with programs, " in refusal(measure=3)
    assert "pilot = [] must be a table with accuracy, cell" in refusal(pilot=[])
    train = tables()["recipe"] | {"train": 3}
    assert "train = 3 must be dict" in refusal(recipe=train)


def test_levels_are_written_into_tables():
    named = {"name": "mixture", "levels": ["first", {"name": "own", "family": [{"name": "register"}]}]}
    assert "is a table; levels are numbers, texts, flags or lists of them" in refusal(factor=[named])


def test_a_name_is_that_of_a_folder():
    for name in ("..", ".", "_x", "a/b", ""):
        assert f"sweep name {name!r} must begin with a letter or digit" in refusal(name=name)


def test_a_place_within_a_number_is_refused():
    factor = [{"name": "size", "knob": "recipe.programs.x", "levels": [100, 200]}]
    with pytest.raises(ValueError, match=r"recipe\.programs\.x: unknown place 'programs\.x' \(did you mean 'programs'"):
        cells_of(tiny(factor=factor, pilot=None))


def test_what_ships_wins_over_a_file_of_its_name_that_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "diversity").write_text("notes")
    assert load("diversity").name == "diversity"


def test_responses_must_be_measurable():
    assert "unknown accuracy 'longr' (did you mean 'longer'?)" in refusal(responses=["accuracy.longr"])
    assert "unknown response 'red.reg'" in refusal(responses=["red.reg"])
    assert "unknown response 'read.reg.e'" in refusal(responses=["read.reg.e"])
    family = {"name": "m", "family": [{"name": "arith"}]}
    arith = {"mixture": family, "pilot": None, "hypothesis": None}
    assert "read.reg needs the family register, which the mixture lacks" in refusal(responses=["read.reg"], **arith)
    assert tiny(responses=["accuracy.arith"], **arith).variables == ()


def test_variables_of_responses():
    responses = ["interchange.reg.a.stored", "interchange.reg.stored", "mechanism.reg", "read.reg.a"]
    sweep = tiny(responses=responses, pilot=None, hypothesis=None)
    assert sweep.variables == ("reg.a", "reg")
    assert sweep.kinds() == {"interchange", "mechanism", "read"}


def test_the_pilot_and_hypotheses_are_about_what_the_sweep_has():
    assert "pilot: skeletons = 7 must be one of [40, 400]" in refusal(pilot={"accuracy": 0.5, "cell": {"skeletons": 7}})
    assert "pilot: accuracy = 2.0 must lie in [0, 1]" in refusal(pilot={"accuracy": 2.0})
    assert "unknown factor 'skeleton' (did you mean" in refusal(pilot={"accuracy": 0.5, "cell": {"skeleton": 40}})
    hypothesis = tables()["hypothesis"][0]
    assert "expected = 'up' must be one of positive" in refusal(hypothesis=[hypothesis | {"expected": "up"}])
    assert "unknown response 'accuracy.x'" in refusal(hypothesis=[hypothesis | {"response": "accuracy.x"}])
    assert "unknown predictor 'zipf'" in refusal(hypothesis=[hypothesis | {"predictor": "zipf"}])
    line = refusal(hypothesis=[hypothesis | {"predictor": "property.skelet"}])
    assert "unknown predictor 'property.skelet' (did you mean 'property.skeletons'?)" in line
    assert "a [[hypothesis]] needs expected" in refusal(
        hypothesis=[{k: v for k, v in hypothesis.items() if k != "expected"}]
    )


def test_one_seed_answers_no_hypothesis():
    with pytest.raises(ValueError, match="one seed a cell answers no hypothesis; name two or more, 5 are meant"):
        tiny(seeds=[0])
    assert tiny(seeds=[0], hypothesis=None).seeds == (0,)


def test_a_factor_is_not_called_as_a_response():
    factor = {"name": "accuracy.base", "knob": "recipe.model.n_layers", "levels": [1, 2]}
    with pytest.raises(ValueError, match=r"column of the table 'accuracy\.base' stands there twice"):
        tiny(factor=[factor], pilot=None)


def test_an_unknown_sweep_is_refused_with_those_that_ship():
    with pytest.raises(ValueError, match=r"no sweep 'diversty'; name a TOML file or one of .*diversity"):
        load("diversty")


def test_a_factor_of_mixtures_has_their_content():
    sweep = tiny(factor=[{"name": "arm", "knob": "mixture", "levels": ["first", "paper"]}], pilot=None)
    assert [value["name"] for value in sweep.factors[0].values] == ["first", "paper"]
    with pytest.raises(ValueError, match="has 1 values for 2 levels"):
        Factor("arm", ("a", "b"), "mixture", ({},))


def test_the_file_of_the_documentation_is_a_sweep(tmp_path):
    page = (Path(__file__).parents[3] / "docs" / "sweeps.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (tmp_path / "mine.toml").write_text(text, encoding="utf-8")
    sweep = load(tmp_path / "mine.toml")
    assert [factor.sets for factor in sweep.factors] == ["skeletons", "recipe.model.n_layers"]
    assert sweep.measure == Measurements()
