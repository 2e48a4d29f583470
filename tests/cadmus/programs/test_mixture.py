"""Mixtures: TOML and back, what ships, knob types, and an error in one line for whatever a file gets wrong."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmus import shipped as shipped_data
from cadmus.machine import vm
from cadmus.programs import mixture
from cadmus.programs.families import (
    FAMILIES,
    Arith,
    Compare,
    Equality,
    Family,
    Induce,
    Label,
    Random,
    Register,
    Sequence,
    Stack,
)
from cadmus.programs.holdout import HoldOut
from cadmus.programs.mixture import Component, Mixture, OutOfDistribution, Phase
from tests.cadmus.programs.test_families import SETTINGS, distances
from tests.fuzzing import examples

VARIED = Mixture(
    "varied",
    (
        Component(Register(low=-9, high=18, registers="bd", operators="x-", assertions=3, pair_share=0.5), 2.5),
        Component(Compare(low=-3, high=7, length=3, equal_share=0.0), 1.0),
        Component(Equality(), 0.125),
    ),
)

FULL = Mixture(
    "full",
    (
        Component(Compare(low=-5, high=5, assertions=2), 3.0),
        Component(Arith(operators="+-", digit_skew=0.5), 1.0, "keep"),
        Component(Register(), 2.0),
    ),
    HoldOut(values=(3, -1), pairs=("*n", "x-"), max_length=30, skeletons=("00+0=",)),
    (
        Phase(
            0.25, (Component(Compare(low=-5, high=5), 1.0), Component(Arith(), 0.5, "keep"), Component(Register(), 2.0))
        ),
        Phase(
            0.5,
            (
                Component(Compare(low=-5, high=5, length=3), 1.0, "keep"),
                Component(Arith(operators="+-", digit_skew=0.5), 1.0, "keep"),
                Component(Register(max_stores=8), 1.0),
                Component(Label(), 0.25),
            ),
        ),
    ),
    (
        OutOfDistribution("unseen", Compare(low=6, high=18)),
        OutOfDistribution("pairs", Compare(low=-5, high=5, assertions=2), "pairs"),
        OutOfDistribution("other family", Stack(max_depth=7)),
    ),
    12_345,
)

families = st.one_of(
    st.builds(Compare, low=st.integers(-9, 3), high=st.integers(4, 18), length=st.just(3), equal_share=st.floats(0, 1)),
    st.builds(Equality, low=st.integers(-81, 3), high=st.integers(4, 91), length=st.just(5)),
    st.builds(
        Register,
        high=st.integers(0, 81),
        registers=st.sampled_from(["abcd", "d", "ca"]),
        operators=st.sampled_from(["+-*xn", "*", "n-"]),
        overwrite_share=st.floats(0, 1),
    ),
    st.builds(Sequence, count_share=st.floats(0, 1), steps=st.sampled_from(["R", "TQ"]), max_steps=st.integers(0, 8)),
    st.builds(Induce, tests=st.sampled_from(["> <", "odd"]), max_examples=st.integers(3, 16)),
    st.builds(Random, max_length=st.integers(3, 32), digit_share=st.floats(0, 1)),
)
components = st.builds(Component, families, st.floats(1e-6, 1e6), st.sampled_from(["keep", "remove"]))
names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]))
hold_outs = st.builds(
    HoldOut,
    values=st.lists(st.integers(-vm.MAX_INT, vm.MAX_INT), max_size=3).map(tuple),
    pairs=st.lists(st.sampled_from(["*n", "00", '\\"', "{}", "A'"]), max_size=3).map(tuple),
    max_length=st.integers(0, 100),
    skeletons=st.lists(st.sampled_from(["00+0=", "0", "{#0>}(0,f"]), max_size=2).map(tuple),
    compounds=st.lists(st.sampled_from(["pair 34", "operand \\+", "load 3a"]), max_size=2).map(tuple),
    max_depth=st.integers(0, 9),
    max_read_distance=st.integers(0, 30),
    max_live=st.integers(0, 4),
    questions=st.booleans(),
)
mixtures = st.builds(
    Mixture,
    names,
    st.lists(components, min_size=1, unique_by=lambda component: component.family.name).map(tuple),
    hold_outs,
    programs=st.integers(0, 10**9),
)


@pytest.mark.slow
@settings(deadline=None, max_examples=examples(100))
@given(mixtures)
def test_toml_round_trip(original: Mixture) -> None:
    again = mixture.from_toml(mixture.to_toml(original))
    assert again == original
    assert again.fingerprint == original.fingerprint
    assert mixture.from_dict(mixture.to_dict(original)) == original


def test_everything_makes_the_round_trip() -> None:
    again = mixture.from_toml(mixture.to_toml(FULL))
    assert again == FULL
    assert again.fingerprint == FULL.fingerprint
    assert mixture.from_toml(mixture.to_toml(again)) == again


@pytest.mark.parametrize(
    "components",
    [(VARIED.components[0],), VARIED.components[::-1], (Component(Label()), *VARIED.components)],
    ids=["families left out", "another order", "a new family first"],
)
def test_a_phase_makes_the_round_trip_whatever_its_families(components: tuple[Component, ...]) -> None:
    original = replace(VARIED, phases=(Phase(0.5, components),))
    again = mixture.from_toml(mixture.to_toml(original))
    assert again == original
    assert again.fingerprint == original.fingerprint


def test_a_phase_that_drops_duplicates_which_the_rest_keeps_makes_the_round_trip() -> None:
    keeping, dropped = (Component(Compare(), 1.0, duplicates) for duplicates in ("keep", "remove"))
    original = Mixture("m", (keeping,), phases=(Phase(0.5, (dropped,)),))
    assert mixture.from_toml(mixture.to_toml(original)) == original


def test_a_later_knob_makes_the_round_trip_and_stands_in_toml_where_it_is_turned() -> None:
    turned, default = Component(Equality(test="-")), Component(Equality())
    assert "test" not in mixture.to_toml(Mixture("m", (default,)))
    for own, other in ((turned, default), (default, turned), (turned, turned)):
        sets = (OutOfDistribution("s", replace(other.family, length=5)),)
        original = Mixture("m", (own,), phases=(Phase(0.5, (other,)),), out_of_distribution=sets)
        assert mixture.from_toml(mixture.to_toml(original)) == original
    assert Mixture("m", (default,)).fingerprint != Mixture("m", (turned,)).fingerprint


def test_a_variant_changes_what_it_names_and_keeps_the_rest() -> None:
    base = Mixture(
        "m",
        (Component(Compare(), 3.0), Component(Equality(low=-5)), Component(Register())),
        HoldOut(max_depth=3),
        out_of_distribution=(OutOfDistribution("s", Equality(low=-7)),),
    )
    assert mixture.variant(base, {}) == replace(base, out_of_distribution=())
    tables = [{"name": "register", "weight": 0}, {"name": "arith"}, {"name": "equality", "low": -7, "weight": 2}]
    varied = mixture.variant(base, {"family": tables, "hold_out": {"max_length": 20}})
    assert varied.components == (Component(Compare(), 3.0), Component(Equality(low=-7), 2.0), Component(Arith()))
    assert varied.hold_out == HoldOut(max_depth=3, max_length=20)
    assert mixture.variant(base, {"hold_out": {"max_depth": 0}}).hold_out == HoldOut()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"families": []}, "variant: unknown knob 'families' (did you mean 'family'?)"),
        ({"family": {}}, "a variant is family = "),
        ({"family": [{"name": "equality", "lo": 1}]}, "family equality: unknown knob 'lo' (did you mean 'low'?)"),
        ({"family": [{"name": "arith"}, {"name": "arith"}]}, "a variant names a family twice (arith)"),
        ({"family": [{"name": "compare", "weight": 0}]}, "has no families"),
        ({"hold_out": {"value": [1]}}, "did you mean 'values'?"),
    ],
)
def test_a_variant_that_is_none_is_refused_in_one_line(table: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        mixture.variant(Mixture("m", (Component(Compare()),)), table)
    assert "\n" not in str(error.value)


def test_a_mixture_with_phases_has_no_variants() -> None:
    phases = (Phase(0.5, (Component(Arith()),)),)
    with pytest.raises(ValueError, match="of a mixture without phases"):
        mixture.variant(Mixture("m", (Component(Compare()),), phases=phases), {})


def test_a_phase_that_leaves_a_family_out_of_its_toml_makes_the_round_trip() -> None:
    text = BASE + '[[phase]]\nuntil = 0.5\n[[phase.family]]\nname = "compare"\nweight = 0\n'
    original = mixture.from_toml(text)
    assert mixture.from_toml(mixture.to_toml(original)) == original


def test_file_round_trip(tmp_path: Path) -> None:
    path = mixture.save(VARIED, tmp_path / "new" / "varied.toml")
    assert mixture.load(path) == mixture.load(str(path)) == VARIED
    bare = tmp_path / "varied"  # a file is read whatever its name
    path.rename(bare)
    assert mixture.load(bare) == VARIED


def test_toml_writes_every_knob_out() -> None:
    text = mixture.to_toml(VARIED)
    for name in ("equal_share = 0.0", "negated_share = 0.5", "dependent_share = 0.25", "weight = 0.125"):
        assert name in text
    assert text.startswith('name = "varied"\n')


@pytest.mark.parametrize("name", shipped_data.names("mixtures"))
def test_shipped_mixtures_load(name: str) -> None:
    shipped = mixture.load(name)
    assert shipped.name == name
    assert mixture.from_toml(mixture.to_toml(shipped)) == shipped


def test_first_mixture_ships() -> None:
    assert "first" in shipped_data.names("mixtures")
    assert [family.name for family in mixture.load("first").families] == ["compare", "equality", "register"]
    assert mixture.load("first").shares == pytest.approx((3 / 6, 1 / 6, 2 / 6))


def test_paper_mixture_has_its_families_in_its_proportions() -> None:
    paper = mixture.load("paper")
    millions = {
        "arith": 10,
        "equality": 10,
        "compare": 10,
        "subroutine": 10,
        "sequence": 10,
        "sequence_advanced": 5,
        "label": 10,
        "induce": 15,
        "random": 0.2,
    }
    assert [family.name for family in paper.families] == list(millions)
    assert sum(millions.values()) == pytest.approx(80.2)
    assert paper.programs == 80_200_000
    assert paper.shares == pytest.approx([share / 80.2 for share in millions.values()])
    for name in ("compare", "equality", "subroutine"):
        assert (paper.family(name).low, paper.family(name).high, paper.family(name).length) == (-20, 20, 5)


def test_default_mixture_has_all_families_and_keeps_something_out() -> None:
    default = mixture.load("default")
    assert [family.name for family in default.families] == list(FAMILIES)
    assert default.hold_out.rules == ("pairs",)
    assert default.programs == 4_000_000
    sets = {ood.name: ood for ood in default.out_of_distribution}
    assert list(sets) == ["unseen_values", "longer_expressions", "held_out_pairs", "longer_read_distance"]
    trained = default.family("compare")
    assert sets["unseen_values"].family == replace(trained, low=21, high=40)
    assert sets["longer_expressions"].family == replace(trained, length=7)
    assert sets["held_out_pairs"] == OutOfDistribution("held_out_pairs", trained, "pairs")
    assert sets["longer_read_distance"].family.low == default.family("register").low == -20


def test_longer_read_distance_is_beyond_what_is_trained() -> None:
    """The set's comment: values stored three or more stores before they are asked for."""
    default = mixture.load("default")
    assert max(distance for distance, _ in distances(default.family("register"))) == 2
    (unlike,) = (ood.family for ood in default.out_of_distribution if ood.name == "longer_read_distance")
    assert np.mean([distance >= 3 for distance, _ in distances(unlike)]) > 0.9


@pytest.mark.parametrize("name", shipped_data.names("mixtures"))
def test_shipped_mixtures_can_be_drawn(name: str) -> None:
    shipped = mixture.load(name)
    parts = [component.family for _, part in shipped.parts for component in part.components]
    for family in {*parts, *(ood.family for ood in shipped.out_of_distribution)}:
        assert family.width <= shipped.width or family not in parts
        assert len(family.generate(2000, np.random.default_rng(0))) == 2000


def test_knobs_left_out_have_their_defaults() -> None:
    parsed = mixture.from_toml('name = "m"\n[[family]]\nname = "register"\nhigh = 12\n[[family]]\nname = "equality"')
    assert parsed.components == (Component(Register(high=12), 1.0), Component(Equality(), 1.0))


def test_families_shares_and_width() -> None:
    assert [family.name for family in VARIED.families] == ["register", "compare", "equality"]
    assert VARIED.shares == pytest.approx((2.5 / 3.625, 1 / 3.625, 0.125 / 3.625))
    assert sum(VARIED.shares) == pytest.approx(1)
    assert VARIED.width == max(family.width for family in VARIED.families)
    assert VARIED.family("compare") is VARIED.families[1]
    with pytest.raises(ValueError, match=r"mixture 'varied' has no family 'basic'; it has register, compare, equality"):
        VARIED.family("basic")


def test_whole_numbers_are_taken_for_floats_only() -> None:
    text = 'name = "m"\n[[family]]\nname = "compare"\nweight = 2\nequal_share = 1'
    (component,) = mixture.from_toml(text).components
    assert component == Component(Compare(equal_share=1.0), 2.0)
    assert type(component.weight) is type(component.family.equal_share) is float


# --- phases and out-of-distribution sets -----------------------------------------------------------------------------

BASE = """name = "m"
[[family]]
name = "compare"
weight = 3
low = -5
high = 5
duplicates = "keep"
[[family]]
name = "register"
max_stores = 6
"""


def test_phases_have_the_knobs_of_the_base_where_they_name_none() -> None:
    text = (
        BASE
        + """
[[phase]]
until = 0.25
[[phase.family]]
name = "register"
weight = 0
[[phase.family]]
name = "compare"
length = 3
[[phase.family]]
name = "stack"
[[phase]]
until = 0.75
[[phase.family]]
name = "compare"
weight = 1
duplicates = "remove"
"""
    )
    early, late = mixture.from_toml(text).phases
    assert early == Phase(0.25, (Component(Compare(low=-5, high=5, length=3), 3.0, "keep"), Component(Stack(), 1.0)))
    base_register = Component(Register(max_stores=6), 1.0)
    assert late == Phase(0.75, (Component(Compare(low=-5, high=5), 1.0), base_register))


def test_a_phase_without_tables_is_the_base() -> None:
    parsed = mixture.from_toml(BASE + "[[phase]]\nuntil = 0.5")
    assert parsed.phases == (Phase(0.5, parsed.components),)


def test_at_and_parts() -> None:
    first, second, rest = (part for _, part in FULL.parts)
    assert [share for share, _ in FULL.parts] == [0.25, 0.25, 0.5]
    assert (first.components, second.components) == tuple(phase.components for phase in FULL.phases)
    assert rest.components == FULL.components
    for part in (first, second, rest):
        assert part.hold_out == FULL.hold_out
        assert part.phases == ()
    for progress, part in [(0, first), (0.2499, first), (0.25, second), (0.4999, second), (0.5, rest), (1, rest)]:
        assert FULL.at(progress) == part
    assert VARIED.parts == ((1.0, VARIED),)
    assert VARIED.at(0) == VARIED.at(1) == VARIED


def test_width_is_of_all_phases() -> None:
    assert FULL.width == Label().width > FULL.parts[0][1].width
    assert FULL.parts[1][1].width == FULL.width


def test_a_set_of_held_out_compounds_or_of_a_split_makes_the_round_trip() -> None:
    sets = (
        OutOfDistribution("far", Compare(), "compounds", 0.25),
        OutOfDistribution("unseen_skeletons", Compare(), "test_skeleton"),
    )
    original = Mixture(
        "m", (Component(Compare()),), HoldOut(compounds=("operand 3+", "pair 34")), out_of_distribution=sets
    )
    again = mixture.from_toml(mixture.to_toml(original))
    assert again == original
    assert again.fingerprint == original.fingerprint
    without = replace(original, out_of_distribution=(replace(sets[0], held_out_share=0.0), sets[1]))
    assert without.fingerprint != original.fingerprint
    assert "held_out_share" not in mixture.to_toml(without), "mixtures of before keep their fingerprints"


def test_out_of_distribution_sets_have_the_knobs_of_training_where_they_name_none() -> None:
    text = (
        BASE
        + """
[hold_out]
max_length = 30
[[out_of_distribution]]
name = "far"
family = "compare"
low = 6
high = 9
[[out_of_distribution]]
name = "long"
family = "register"
held_out = "max_length"
[[out_of_distribution]]
name = "new"
family = "stack"
"""
    )
    assert mixture.from_toml(text).out_of_distribution == (
        OutOfDistribution("far", Compare(low=6, high=9)),
        OutOfDistribution("long", Register(max_stores=6), "max_length"),
        OutOfDistribution("new", Stack()),
    )


# --- fingerprints ----------------------------------------------------------------------------------------------------


def test_fingerprint_is_of_the_content_not_of_the_name() -> None:
    assert re.fullmatch("[0-9a-f]{16}", VARIED.fingerprint)
    assert replace(VARIED, name="other").fingerprint == VARIED.fingerprint
    assert mixture.load("first").fingerprint == mixture.load("first").fingerprint


def test_fingerprint_changes_with_every_knob_weight_and_order() -> None:
    register, compare, equality = VARIED.components

    def with_register(family: Family) -> Mixture:
        return Mixture("varied", (replace(register, family=family), compare, equality))

    others = [
        Mixture("varied", (compare, register, equality)),
        Mixture("varied", (register, compare)),
        Mixture("varied", (replace(register, weight=2.0), compare, equality)),
        with_register(replace(register.family, low=-8)),
        with_register(replace(register.family, registers="db")),
        with_register(replace(register.family, max_stores=5)),
        with_register(replace(register.family, dependent_share=0.3)),
        with_register(replace(register.family, operators="x")),
    ]
    assert len({VARIED.fingerprint, *(other.fingerprint for other in others)}) == len(others) + 1


def test_fingerprint_changes_with_all_but_name_and_size() -> None:
    phase, other_phase = FULL.phases
    ood = FULL.out_of_distribution
    compare, arith, register = FULL.components
    changes = [
        {"hold_out": HoldOut()},
        {"hold_out": replace(FULL.hold_out, values=(3, 1)), "out_of_distribution": ()},
        {"hold_out": replace(FULL.hold_out, values=(3, 1))},
        {"hold_out": replace(FULL.hold_out, pairs=("*n", "x+"))},
        {"hold_out": replace(FULL.hold_out, max_length=31)},
        {"hold_out": replace(FULL.hold_out, skeletons=("00-0=",))},
        {"phases": ()},
        {"phases": (phase,)},
        {"phases": (replace(phase, until=0.26), other_phase)},
        {"phases": (replace(phase, components=phase.components[:2]), other_phase)},
        {"out_of_distribution": ()},
        {"out_of_distribution": ood[:2]},
        {"out_of_distribution": (replace(ood[0], name="other"), *ood[1:])},
        {"out_of_distribution": (replace(ood[0], family=Compare(low=6, high=17)), *ood[1:])},
        {"out_of_distribution": (ood[0], replace(ood[1], held_out="values"), ood[2])},
        {"components": (compare, replace(arith, duplicates="remove"), register)},
        {"components": (compare, replace(arith, weight=1.5), register)},
    ]
    changes[0]["out_of_distribution"] = ()
    prints = {FULL.fingerprint, *(replace(FULL, **change).fingerprint for change in changes)}
    assert len(prints) == len(changes) + 1
    assert replace(FULL, name="other", programs=7).fingerprint == FULL.fingerprint


@pytest.mark.parametrize("name", FAMILIES)
def test_fingerprint_changes_with_every_knob(name: str) -> None:
    by_fingerprint = {
        Mixture("m", (Component(family),)).fingerprint: family for family in SETTINGS if family.name == name
    }
    assert len(by_fingerprint) == len([family for family in SETTINGS if family.name == name])


# --- errors ----------------------------------------------------------------------------------------------------------

COMPARE = 'name = "m"\n[[family]]\nname = "compare"\n'
PHASE = COMPARE + "[[phase]]\nuntil = 0.5\n"
OUTSIDE = COMPARE + '[[out_of_distribution]]\nname = "far"\n'
ALL = "arith, equality, compare, subroutine, sequence, sequence_advanced, label, induce, random, register, stack"
TOP = "name, programs, family, hold_out, phase, out_of_distribution"
REFUSED = {
    'name = "m': "mix.toml is not TOML: ",
    'name = "m"\n[[family]\n': "mix.toml is not TOML: ",
    'name = "m"': "mix.toml: mixture 'm' has no families; add a [[family]] table with a name",
    'name = "m"\nfamily = []': "mix.toml: mixture 'm' has no families; add a [[family]] table with a name",
    '[[family]]\nname = "compare"': 'mix.toml: a mixture is name = "..." and one or more [[family]] tables',
    'name = 3\n[[family]]\nname = "compare"': 'a mixture is name = "..." and one or more [[family]] tables',
    'name = "m"\n[family]\nname = "compare"': 'a mixture is name = "..." and one or more [[family]] tables',
    'nam = "m"': f"mix.toml: mixture: unknown knob 'nam' (did you mean 'name'?); there are {TOP}",
    'name = "m"\nfamilies = []': f"unknown knob 'families' (did you mean 'family'?); there are {TOP}",
    'name = "m"\n[[family]]\nname = "comparison"': (
        f"mix.toml: unknown family 'comparison' (did you mean 'compare'?); there are {ALL}"
    ),
    'name = "m"\n[[family]]\nname = "zzz"': f"unknown family 'zzz'; there are {ALL}",
    'name = "m"\n[[family]]\nweight = 1': f"unknown family None; there are {ALL}",
    COMPARE + "equal = 0.5": (
        "mix.toml: family compare: unknown knob 'equal' (did you mean 'equal_share'?); "
        "there are name, weight, duplicates, low, high, length, min_length, operators, digit_skew, skeletons, zipf, "
        "assertions, equal_share"
    ),
    COMPARE + "stores = 2": "family compare: unknown knob 'stores'; there are name, weight, duplicates, low, ",
    COMPARE + "low = 0.0": "family compare: knob low = 0.0 must be int",
    COMPARE + "low = true": "family compare: knob low = True must be int",
    COMPARE + 'low = "0"': "family compare: knob low = '0' must be int",
    COMPARE + "equal_share = true": "family compare: knob equal_share = True must be float",
    COMPARE + 'equal_share = "half"': "family compare: knob equal_share = 'half' must be float",
    COMPARE.replace("compare", "register") + "registers = 3": "family register: knob registers = 3 must be str",
    COMPARE.replace("compare", "register") + 'registers = ["a"]': "knob registers = ['a'] must be str",
    COMPARE + 'weight = "much"': "family compare: weight = 'much' must be a number",
    COMPARE + "weight = true": "family compare: weight = True must be a number",
    COMPARE + "weight = 0": "family compare: weight = 0.0 must be above 0; drop the family instead",
    COMPARE + "weight = -1.5": "family compare: weight = -1.5 must be above 0; drop the family instead",
    COMPARE + "weight = inf": "family compare: weight = inf must be above 0",
    COMPARE + "weight = nan": "family compare: weight = nan must be above 0",
    COMPARE + "equal_share = 2.0": "mix.toml: compare: knob equal_share = 2.0 is a share, so it must lie in [0, 1]",
    COMPARE + "length = 2": "mix.toml: compare: no expression of 2 instructions exists over the operators ",
    COMPARE + 'duplicates = "drop"': "mix.toml: family compare: duplicates = 'drop' must be one of remove, keep",
    COMPARE + "duplicates = 1": "mix.toml: family compare: duplicates = 1 must be one of remove, keep",
    "programs = -1\n" + COMPARE: "mix.toml: mixture 'm': programs = -1 must be 0 or more",
    "programs = 1.5\n" + COMPARE: "mix.toml: programs = 1.5 must be a whole number",
    "programs = true\n" + COMPARE: "mix.toml: programs = True must be a whole number",
    **{
        COMPARE + f"[hold_out]\n{rule}": f"mix.toml: hold_out: {message}"
        for rule, message in {
            "value = [3]": "unknown knob 'value' (did you mean 'values'?); there are values, pairs, max_length, ",
            "values = 3": "values = 3 must be a list of int",
            "values = [true]": "values = [True] must be a list of int",
            "values = [3.0]": "values = [3.0] must be a list of int",
            'pairs = "*n"': "pairs = '*n' must be a list of str",
            'pairs = ["*"]': "pair '*' must be two instructions",
            "skeletons = [3]": "skeletons = [3] must be a list of str",
            "max_length = [3]": "max_length = [3] must be int",
            "max_length = true": "max_length = True must be int",
        }.items()
    },
    "hold_out = 3\n" + COMPARE: "mix.toml: hold_out must be one [hold_out] table",
    "phase = 3\n" + COMPARE: "mix.toml: phase must be one or more [[phase]] tables",
    COMPARE + "[phase]\nuntil = 0.5": "mix.toml: phase must be one or more [[phase]] tables",
    COMPARE + "[[phase]]": "mix.toml: a [[phase]] is until = 0.25 (a share of training) and [[phase.family]] tables",
    COMPARE + "[[phase]]\nuntil = true": "mix.toml: a [[phase]] is until = 0.25 (a share of training) and ",
    PHASE + "family = 3": "mix.toml: a [[phase]] is until = 0.25 (a share of training) and [[phase.family]] tables",
    PHASE + "after = 3": "mix.toml: phase: unknown knob 'after'; there are until, family",
    COMPARE + "[[phase]]\nuntil = 0": "mix.toml: phase: until = 0.0 is a share of training, above 0 and below 1",
    COMPARE + "[[phase]]\nuntil = 1.0": "mix.toml: phase: until = 1.0 is a share of training, above 0 and below 1",
    PHASE + "[[phase]]\nuntil = 0.5": "phases must come in order, each until later than the one before",
    PHASE + "[[phase]]\nuntil = 0.25": "phases must come in order, each until later than the one before",
    PHASE + '[[phase.family]]\nname = "compare"\n[[phase.family]]\nname = "compare"': "a phase names a family twice",
    PHASE + '[[phase.family]]\nname = "compare"\nweight = 0': "mix.toml: phase has no families; add a [[family]] table",
    PHASE + '[[phase.family]]\nname = "compare"\nlwo = 0': "unknown knob 'lwo' (did you mean 'low'?)",
    PHASE + '[[phase.family]]\nname = "stock"': f"unknown family 'stock' (did you mean 'stack'?); there are {ALL}",
    PHASE + '[[phase.family]]\nname = "stock"\nweight = 0': "unknown family 'stock' (did you mean 'stack'?)",
    PHASE + "[[phase.family]]\nweight = 0": "unknown family None; there are arith",
    PHASE + '[[phase.family]]\nname = "stack"\n[[phase.family]]\nname = "compare"\nweight = false': (
        "family compare: weight = False must be a number"
    ),
    PHASE + '[[phase.family]]\nname = "compare"\nweight = -1': "family compare: weight = -1.0 must be above 0",
    OUTSIDE + 'family = "compare"': (
        "mix.toml: out_of_distribution 'far' has the knobs of training; turn one, or name a rule as held_out"
    ),
    OUTSIDE + 'family = "compare"\nheld_out = "pairs"': (
        "out_of_distribution 'far': held_out = 'pairs' is not a rule that holds anything out; there are none"
    ),
    OUTSIDE + 'family = "compare"\nheld_out = "pairs"\n[hold_out]\nvalues = [1]\npairs = []\nmax_length = 9': (
        "held_out = 'pairs' is not a rule that holds anything out; there are values, max_length"
    ),
    OUTSIDE + 'family = "compare"\nheld_out = "pairs"\nheld_out_share = 0.5\n[hold_out]\npairs = ["*n"]': (
        "out_of_distribution 'far': held_out_share is for held_out = 'compounds', not 'pairs'"
    ),
    OUTSIDE + 'family = "compare"\nheld_out = "compounds"\nheld_out_share = 2\n[hold_out]\ncompounds = ["pair 34"]': (
        "out_of_distribution 'far': held_out_share = 2.0 must be a share in [0, 1]"
    ),
    OUTSIDE + 'family = "compare"\nheld_out_share = true': "mix.toml: an [[out_of_distribution]] table is name = ",
    OUTSIDE + 'family = "compare"\nheld_out = 3': "mix.toml: an [[out_of_distribution]] table is name = ",
    OUTSIDE + 'family = "compare"\nweight = 3': "mix.toml: family compare: unknown knob 'weight'",
    OUTSIDE: f"mix.toml: unknown family None; there are {ALL}",
    COMPARE + '[[out_of_distribution]]\nfamily = "stack"': "mix.toml: an [[out_of_distribution]] table is name = ",
    COMPARE + '[[out_of_distribution]]\nfamily = "stack"\nname = ""': "out_of_distribution sets need names, each its ",
    COMPARE + '[[out_of_distribution]]\nfamily = "stack"\nname = "../x"': "set '../x' is stored as a file of that name",
    OUTSIDE + 'family = "stack"\n[[out_of_distribution]]\nname = "far"\nfamily = "label"': (
        "mix.toml: mixture 'm': out_of_distribution sets need names, each its own"
    ),
    "out_of_distribution = {}\n" + COMPARE: "out_of_distribution must be one or more [[out_of_distribution]] tables",
    COMPARE + '[[family]]\nname = "compare"\nlow = 0': (
        "mix.toml: mixture 'm' names a family twice (compare, compare); give each one table"
    ),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.items())
def test_bad_toml_is_refused_in_one_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        mixture.from_toml(text, "mix.toml")
    assert "\n" not in str(caught.value)
    path = tmp_path / "mix.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(str(path))):  # a file is named in full
        mixture.load(path)


@pytest.mark.parametrize(("name", "family"), FAMILIES.items())
def test_every_knob_is_known_by_its_type(name: str, family: type[Family]) -> None:
    table = mixture.to_dict(Mixture("m", (Component(family()),)))["family"][0]
    for knob in table.keys() - {"name"}:
        with pytest.raises(ValueError, match=f"{knob} = None must be "):
            mixture.from_dict({"name": "m", "family": [{"name": name, knob: None}]})


def test_nothing_to_load(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no mixture 'frist'; name a TOML file or one of .*first"):
        mixture.load("frist")
    with pytest.raises(ValueError, match="no mixture "):
        mixture.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path / "none.toml"))):
        mixture.load(tmp_path / "none.toml")


def test_integers_and_floats_of_one_value_give_one_fingerprint() -> None:
    whole, real = (Mixture("m", (Component(Compare(equal_share=share), share),)) for share in (1, 1.0))
    assert whole.fingerprint == real.fingerprint == mixture.from_toml(mixture.to_toml(whole)).fingerprint


@pytest.mark.parametrize("text", ['name = "a"\nfamily = ["compare"]', 'name = "a"\n[[family]]\nname = ["compare"]'])
def test_tables_of_the_wrong_kind_are_value_errors(text: str) -> None:
    with pytest.raises(ValueError, match=r"^mixture: "):
        mixture.from_toml(text)
