"""Cells: every combination a recipe, ties named, equal combinations refused."""

import re

import pytest

from analyses.sweeps.cells import cell_from_dict, cells_of, pilot_cell, runs_of
from cadmus.programs.mixture import load, save
from tests.analyses.sweeps.tiny import tables, tiny


def factors(**levels):
    return {"factor": [{"name": name, "levels": values} for name, values in levels.items()], "pilot": None}


def knob(name, **levels):
    return {"factor": [{"name": key, "knob": name, "levels": values} for key, values in levels.items()], "pilot": None}


def test_cells_are_all_combinations_the_last_factor_fastest():
    cells = cells_of(tiny(**factors(skeletons=[40, 400], zipf=[0.0, 1.0])))
    assert [cell.levels for cell in cells] == [
        {"skeletons": 40, "zipf": 0.0},
        {"skeletons": 40, "zipf": 1.0},
        {"skeletons": 400, "zipf": 0.0},
        {"skeletons": 400, "zipf": 1.0},
    ]
    families = [cell.recipe.mixture.families[0] for cell in cells]
    assert [(family.skeletons, family.zipf) for family in families] == [tuple(c.levels.values()) for c in cells]
    assert len({cell.key for cell in cells}) == 4
    assert all(not cell.recipe.mixture.out_of_distribution for cell in cells)  # measured, not trained on


def test_all_models_have_the_positions_that_the_longest_programs_need():
    sweep = tiny(**knob("mixture.register.max_stores", stores=[3, 12]))
    cells = cells_of(sweep)
    assert len({cell.recipe.cfg.n_ctx for cell in cells}) == 1
    longest = max(cell.recipe.mixture.width for cell in cells)
    assert cells[0].recipe.cfg.n_ctx > longest


def test_a_cell_is_named_by_its_content_and_a_run_by_its_seed():
    first, again = cells_of(tiny())[0], cells_of(tiny(seeds=[5, 6, 7], name="other"))[0]
    assert first.key == again.key
    other = cells_of(tiny(recipe=tables()["recipe"] | {"programs": 1600}))[0]
    assert first.key != other.key
    runs = runs_of(tiny(), cells_of(tiny()))
    assert len({run.corpus_seed for run in runs}) == len(runs)
    assert [run.recipe.train.seed for run in runs] == [0, 1, 0, 1]


def test_a_stored_cell_is_the_same():
    sweep = tiny()
    for cell in cells_of(sweep):
        assert cell_from_dict(cell.to_dict(), sweep.recipe) == cell


def test_the_pilot_runs_first_then_all_cells_seed_by_seed():
    sweep = tiny(**factors(skeletons=[40, 400, 800]) | {"pilot": {"accuracy": 0.0, "cell": {"skeletons": 400}}})
    cells = cells_of(sweep)
    assert pilot_cell(sweep, cells) is cells[1]
    levels = [(run.cell.levels["skeletons"], run.seed) for run in runs_of(sweep, cells)]
    assert levels == [(400, 0), (400, 1), (40, 0), (800, 0), (40, 1), (800, 1)]


@pytest.mark.parametrize(
    ("name", "levels", "value"),
    [
        ("mixture.register.dependent_share", [0.0, 0.5], lambda r: r.mixture.families[0].dependent_share),
        ("mixture.hold_out.max_length", [14, 16], lambda r: r.mixture.hold_out.max_length),
        ("recipe.train.steps", [4, 8], lambda r: r.train.steps),
        ("recipe.model.n_layers", [1, 2], lambda r: r.cfg.n_layers),
        ("recipe.programs", [1000, 2000], lambda r: r.size),
        ("read_distance", [1, 2], lambda r: r.mixture.families[0].max_distance),
        ("overwrites", [0.1, 0.2], lambda r: r.mixture.families[0].overwrite_share),
        ("value_range", [5, 9], lambda r: r.mixture.families[0].high),
    ],
)
def test_knobs_and_paths(name, levels, value):
    cells = cells_of(tiny(**knob(name, it=levels)))
    assert [value(cell.recipe) for cell in cells] == levels


def test_a_range_of_values_reaches_below_0_where_the_family_does():
    mixture = {"name": "m", "family": [{"name": "register", "low": -9}]}
    sweep = tiny(mixture=mixture, responses=["accuracy.register"], **factors(value_range=[5, 9]), hypothesis=None)
    assert [(c.recipe.mixture.families[0].low, c.recipe.mixture.families[0].high) for c in cells_of(sweep)] == [
        (-5, 5),
        (-9, 9),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (factors(skeleton=[1, 2]), "factor 'skeleton': unknown knob 'skeleton' (did you mean 'skeletons'?)"),
        (knob("mixture.regster.zipf", a=[1, 2]), "unknown family 'regster' (did you mean 'register'?)"),
        (knob("mixture.register.zif", a=[1, 2]), "unknown knob 'zif' (did you mean 'zipf'?)"),
        (knob("recipe.train.step", a=[1, 2]), "unknown field 'step' (did you mean 'steps'?)"),
        (knob("recipe.train.seed", a=[1, 2]), "seeds are those of the sweep"),
        (knob("recipe.train.steps", a=[1, 2.5]), "steps = 2.5 must be int"),
        (knob("mixture", a=["first", "frst"]), "no mixture 'frst'"),
    ],
)
def test_what_cannot_be_set_is_refused(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        cells_of(tiny(**changes))


def test_factors_that_exclude_each_other_are_named():
    with pytest.raises(ValueError, match=r"skeletons and zipf are tied, neither varies alone; leave out the levels"):
        cells_of(tiny(**factors(skeletons=[0, 40], zipf=[0.0, 1.0])))


def test_a_factor_that_is_tied_to_the_base_is_named():
    sweep = tiny(**factors(zipf=[0.0, 1.0], overwrites=[0.1, 0.2]))  # zipf needs a number of skeletons
    with pytest.raises(ValueError, match=r"set skeletons too.*: zipf is tied to what the base mixture sets"):
        cells_of(sweep)


def test_levels_that_change_nothing_are_refused(tmp_path):
    paths = [str(save(load("first"), tmp_path / f"{name}.toml")) for name in "ab"]
    sweep = tiny(factor=[{"name": "arm", "knob": "mixture", "levels": paths}], pilot=None)
    with pytest.raises(ValueError, match=r"are one: arm changes nothing there"):
        cells_of(sweep)
