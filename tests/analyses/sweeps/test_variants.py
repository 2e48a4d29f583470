"""Arms of a mixture, what is demanded of their corpora, and Figure 1: read from tables, errors of one line."""

import json
from dataclasses import replace

import pytest

from analyses.sweeps.cells import cells_of
from analyses.sweeps.sweep import PLANE, Measurements
from analyses.sweeps.sweep_files import load, sweep_from_stored
from cadmus.corpora.build import build
from cadmus.programs import mixture as mixtures
from cadmus.properties.comparisons import compared
from cadmus.training.plane import REGIONS
from tests.analyses.sweeps.tiny import tiny


def refusal(**changes) -> str:
    """The one line that refuses such a sweep."""
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as error:
        tiny(**changes)
    return str(error.value)


VARIANTS = {
    "base": {},
    "wide": {"family": [{"name": "register", "low": -20}, {"name": "arith", "weight": 0.5}]},
    "short": {"hold_out": {"max_length": 12}},
}


def test_a_factor_of_variants_changes_the_mixture_level_by_level():
    sweep = tiny(factor=[{"name": "arm", "variants": VARIANTS}], pilot=None)
    (factor,) = sweep.factors
    assert factor.levels == ("base", "wide", "short")
    assert factor.sets == "mixture"
    base, wide, short = (mixtures.from_dict(value) for value in factor.values)
    assert base == replace(sweep.recipe.mixture, out_of_distribution=())
    assert wide.family("register") == replace(base.family("register"), low=-20)
    assert wide.family_names == ("register", "arith")
    assert short.hold_out.max_length == 12
    assert sweep_from_stored(json.loads(json.dumps(sweep.to_dict()))).to_dict() == sweep.to_dict()
    assert [cell.levels["arm"] for cell in cells_of(sweep)] == list(VARIANTS)


def test_variants_that_are_none_are_refused():
    assert "factor 'arm', variant 'b': family register: unknown knob 'hihg' (did you mean 'high'?)" in refusal(
        factor=[{"name": "arm", "variants": {"a": {}, "b": {"family": [{"name": "register", "hihg": 3}]}}}]
    )
    assert "factor 'arm', variant 'b': variant: unknown knob 'famly' (did you mean 'family'?)" in refusal(
        factor=[{"name": "arm", "variants": {"a": {}, "b": {"famly": []}}}]
    )
    assert "its levels are its variants, changes of the mixture; leave out levels" in refusal(
        factor=[{"name": "arm", "levels": [1, 2], "variants": {"a": {}, "b": {}}}]
    )
    assert "a [[factor]] of variants is name" in refusal(factor=[{"name": "arm", "variants": ["a", "b"]}])
    assert "must be two or more different ones" in refusal(factor=[{"name": "arm", "variants": {"a": {}}}], pilot=None)
    with pytest.raises(ValueError, match=r"the cells .* are one: arm changes nothing"):
        cells_of(tiny(factor=[{"name": "arm", "variants": {"a": {}, "b": {}}}], pilot=None))


def test_demands_are_of_what_is_measured_and_of_cells_that_there_are():
    def demand(**entry):
        return {"demand": [{"property": "compared_greatest", "most": 9, **entry}]}

    assert tiny().demands == ()
    assert "demands" not in tiny().to_dict()  # sweeps without any keep their fingerprints
    sweep = tiny(**demand(cell={"skeletons": [40, 400]}))
    assert sweep.compares
    assert not tiny().compares
    assert [sweep.demands[0].is_of({"skeletons": level}) for level in (40, 400, 4000)] == [True, True, False]
    assert [sweep.demands[0].allows(value) for value in (9, 9.5, float("nan"))] == [True, False, True]
    assert sweep_from_stored(json.loads(json.dumps(sweep.to_dict()))).to_dict() == sweep.to_dict()
    assert "demand: unknown property 'compared_most' (did you mean 'compared_" in refusal(
        **demand(property="compared_most")
    )
    assert "demand: unknown key 'leats' (did you mean 'least'?)" in refusal(**demand(leats=1))
    assert "demand: cell: unknown factor 'skeleton' (did you mean 'skeletons'?)" in refusal(
        **demand(cell={"skeleton": 40})
    )
    assert "demand: skeletons = 41 must be one of [40, 400]" in refusal(**demand(cell={"skeletons": [40, 41]}))
    assert "they are 10.0 and 9.0" in refusal(**demand(least=10))
    assert "a [[demand]] is property" in refusal(demand=[{"most": 3}])


def test_figure_1_needs_compare_and_its_size_is_told_where_it_is_turned():
    assert "figure1.inside needs the family compare, which the mixture lacks" in refusal(responses=["figure1.inside"])
    mixture = {"name": "m", "family": [{"name": "compare"}, {"name": "register"}]}
    assert "unknown part of figure1 'diagnal' (did you mean 'diagonal'?)" in refusal(
        mixture=mixture, responses=["figure1.diagnal"]
    )
    assert tiny(mixture=mixture, responses=["figure1.inside"], pilot=None, hypothesis=[]).compares
    assert "measure: plane_reach = 0 must be 1 or more" in refusal(measure={"plane_reach": 0})
    assert "plane_reach" not in Measurements().to_dict()
    assert Measurements(plane_reach=5).to_dict() == {**Measurements().to_dict(), "plane_reach": 5}
    assert tuple(PLANE.values()) == REGIONS


def test_the_arms_of_figure_1_are_what_they_say():
    sweep = load("figure-1")
    arms = {cell.levels["arm"]: cell.recipe.mixture for cell in cells_of(sweep)}
    for mixture in arms.values():
        for name in ("compare", "subroutine"):
            assert (mixture.family(name).low, mixture.family(name).high) == (-20, 20)
    of_demands = {name: [d for d in sweep.demands if d.is_of({"arm": name})] for name in arms}
    for name, mixture in arms.items():
        corpus = build(mixture, 3000, 0)
        ends = compared(shard.programs for shard in corpus.shards)
        by_name = {"compared_least": ends.least, "compared_greatest": ends.greatest}
        assert of_demands[name]
        assert all(demand.allows(by_name[demand.property]) for demand in of_demands[name])
        assert (ends.greatest > 20) == (name == "lenient")
