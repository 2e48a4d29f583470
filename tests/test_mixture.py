"""Mixtures: TOML and back, what ships, knob types, and an error in one line for whatever a file gets wrong."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmus import mixture
from cadmus.families import FAMILIES, Compare, Equality, Family, Register
from cadmus.mixture import Component, Mixture

VARIED = Mixture(
    "varied",
    (
        Component(Register(low=-9, high=18, registers="bd", operators="x-", assertions=3, pair_share=0.5), 2.5),
        Component(Compare(low=-3, high=7, length=3, equal_share=0.0), 1.0),
        Component(Equality(), 0.125),
    ),
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
)
components = st.builds(Component, families, st.floats(1e-6, 1e6))
names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]))
mixtures = st.builds(
    Mixture,
    names,
    st.lists(components, min_size=1, unique_by=lambda component: component.family.name).map(tuple),
)


@settings(deadline=None, max_examples=100)
@given(mixtures)
def test_toml_round_trip(original: Mixture) -> None:
    again = mixture.from_toml(mixture.to_toml(original))
    assert again == original
    assert again.fingerprint == original.fingerprint
    assert mixture.from_dict(mixture.to_dict(original)) == original


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


@pytest.mark.parametrize("name", mixture.shipped())
def test_shipped_mixtures_load(name: str) -> None:
    shipped = mixture.load(name)
    assert shipped.name == name
    assert mixture.from_toml(mixture.to_toml(shipped)) == shipped


def test_first_mixture_ships() -> None:
    assert "first" in mixture.shipped()
    assert [family.name for family in mixture.load("first").families] == ["compare", "equality", "register"]
    assert mixture.load("first").shares == pytest.approx((3 / 6, 1 / 6, 2 / 6))


def test_knobs_left_out_have_their_defaults() -> None:
    read = mixture.from_toml('name = "m"\n[[family]]\nname = "register"\nhigh = 12\n[[family]]\nname = "equality"')
    assert read.components == (Component(Register(high=12), 1.0), Component(Equality(), 1.0))


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


# --- fingerprints ----------------------------------------------------------------------------------------------------


def test_fingerprint_is_of_the_content_not_of_the_name() -> None:
    assert re.fullmatch("[0-9a-f]{16}", VARIED.fingerprint)
    assert replace(VARIED, name="other").fingerprint == VARIED.fingerprint
    assert mixture.load("first").fingerprint == mixture.load("first").fingerprint


def test_fingerprint_changes_with_every_knob_weight_and_order() -> None:
    register, compare, equality = VARIED.components

    def turned(family: Family) -> Mixture:
        return Mixture("varied", (replace(register, family=family), compare, equality))

    others = [
        Mixture("varied", (compare, register, equality)),
        Mixture("varied", (register, compare)),
        Mixture("varied", (replace(register, weight=2.0), compare, equality)),
        turned(replace(register.family, low=-8)),
        turned(replace(register.family, registers="db")),
        turned(replace(register.family, max_stores=5)),
        turned(replace(register.family, dependent_share=0.3)),
        turned(replace(register.family, operators="x")),
    ]
    assert len({VARIED.fingerprint, *(other.fingerprint for other in others)}) == len(others) + 1


# --- errors ----------------------------------------------------------------------------------------------------------

COMPARE = 'name = "m"\n[[family]]\nname = "compare"\n'
REFUSED = {
    'name = "m': "mix.toml is not TOML: ",
    'name = "m"\n[[family]\n': "mix.toml is not TOML: ",
    'name = "m"': "mix.toml: mixture 'm' has no families; add a [[family]] table with a name",
    'name = "m"\nfamily = []': "mix.toml: mixture 'm' has no families; add a [[family]] table with a name",
    '[[family]]\nname = "compare"': 'mix.toml: a mixture is name = "..." and one or more [[family]] tables',
    'name = 3\n[[family]]\nname = "compare"': 'a mixture is name = "..." and one or more [[family]] tables',
    'name = "m"\n[family]\nname = "compare"': 'a mixture is name = "..." and one or more [[family]] tables',
    'nam = "m"': "mix.toml: mixture: unknown knob 'nam' (did you mean 'name'?); there are name, family",
    'name = "m"\nfamilies = []': "unknown knob 'families' (did you mean 'family'?); there are name, family",
    'name = "m"\n[[family]]\nname = "comparison"': (
        "mix.toml: unknown family 'comparison' (did you mean 'compare'?); there are compare, equality, register"
    ),
    'name = "m"\n[[family]]\nname = "zzz"': "unknown family 'zzz'; there are compare, equality, register",
    'name = "m"\n[[family]]\nweight = 1': "unknown family None; there are compare, equality, register",
    COMPARE + "equal = 0.5": (
        "mix.toml: family compare: unknown knob 'equal' (did you mean 'equal_share'?); "
        "there are name, weight, low, high, length, equal_share"
    ),
    COMPARE + "assertions = 2": "family compare: unknown knob 'assertions'; there are name, weight, low",
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
    COMPARE + "length = 2": "mix.toml: expressions have 1 or 3 or 5 instructions, not 2",
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
    whole, real = (Mixture("m", (Component(Compare(equal_share=one), one),)) for one in (1, 1.0))
    assert whole.fingerprint == real.fingerprint == mixture.from_toml(mixture.to_toml(whole)).fingerprint


@pytest.mark.parametrize("text", ['name = "a"\nfamily = ["compare"]', 'name = "a"\n[[family]]\nname = ["compare"]'])
def test_tables_of_the_wrong_kind_are_value_errors(text: str) -> None:
    with pytest.raises(ValueError, match=r"^mixture: "):
        mixture.from_toml(text)
