"""Programs, tokens and labels that probes are judged on, against `variables.read` and plain loops."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import cache, partial

import numpy as np
import pytest

from cadmus.machine import kernel, tokens, vm
from cadmus.programs import mixture, skeletons
from cadmus.programs.families import Compare, Register
from cadmus.programs.holdout import HoldOut
from cadmus.programs.mixture import Component, Mixture
from cadmus.states import hindsight, variables
from probes.data.examples import TRUE_MACHINE, Examples, Labelled, Target, draw, is_category, labelled
from probes.data.folds import FOLDS, skeleton_folds, skeleton_ids

OTHER = vm.Semantics({"+": "-", "-": "+"})


@cache
def drawn(n: int = 300) -> Examples:
    return draw(mixture.load("first"), n)


def even(traces: kernel.Traces) -> tuple[np.ndarray, np.ndarray]:
    return traces.depth % 2, traces.depth > 0


def large(traces: kernel.Traces) -> tuple[np.ndarray, np.ndarray]:
    return 60 * traces.depth, np.ones(traces.depth.shape, np.bool_)


def my_all_true(traces: kernel.Traces) -> tuple[np.ndarray, np.ndarray]:
    return traces.all_true, traces.depth > 1


# --- programs --------------------------------------------------------------------------------------------------------


def test_programs_are_of_held_out_skeletons_in_the_mixtures_shares() -> None:
    examples = drawn()
    assert examples.families == ("compare", "equality", "register")
    assert np.bincount(examples.family).tolist() == [150, 50, 100]
    assert (skeletons.splits(examples.programs) == skeletons.SPLITS.index("test_skeleton")).all()
    assert len(np.unique(examples.programs, axis=0)) == len(examples)
    first = mixture.load("first")
    for family, program in zip(examples.family, tokens.decode(examples.programs), strict=True):
        assert first.families[family].accepts(program)
    assert (np.diff(examples.family.astype(int)) != 0).sum() > 100, "families are mixed"


def test_a_draw_is_fixed_by_its_seed() -> None:
    again, other = draw(mixture.load("first"), 300), draw(mixture.load("first"), 300, 1)
    for name in ("programs", "family", "skeletons", "folds", "where"):
        assert np.array_equal(getattr(again, name), getattr(drawn(), name)), name
    assert len(np.unique(np.concatenate([other.programs, again.programs]), axis=0)) > 400


def test_families_are_chosen_by_name_and_have_thirty_programs_at_least() -> None:
    examples = draw(mixture.load("first"), 40, families=("register", "equality"))
    assert examples.families == ("equality", "register")
    assert np.bincount(examples.family).tolist() == [30, 30]
    with pytest.raises(ValueError, match="compare, equality, register"):
        draw(mixture.load("first"), 40, families=("registers",))
    tiny = Mixture("tiny", (Component(Compare(low=0, high=0, length=1, equal_share=1.0)),))
    with pytest.raises(ValueError, match=r"family compare has only \d+ programs in split 'test_skeleton'"):
        draw(tiny, 1000)


def test_what_a_mixture_holds_out_is_not_drawn() -> None:
    held = HoldOut(pairs=("0A",))
    mixed = Mixture("held", (Component(Register(max_stores=2)),), hold_out=held)
    assert not held.held(draw(mixed, 300).programs).any()
    assert held.held(draw(Mixture("free", mixed.components), 300).programs).any()


def test_folds_are_by_skeleton() -> None:
    examples = drawn()
    assert np.array_equal(examples.folds, skeleton_folds(examples.programs))
    assert np.array_equal(examples.skeletons, skeleton_ids(examples.programs))
    parts = [examples.fold(name) for name in FOLDS]
    assert sum(map(len, parts)) == len(examples)
    assert len(examples.fold("train", "test")) == len(parts[0]) + len(parts[2])
    parts_skeletons = [set(part.skeletons.tolist()) for part in parts]
    assert not parts_skeletons[0] & parts_skeletons[1]
    assert not (parts_skeletons[0] | parts_skeletons[1]) & parts_skeletons[2]


def test_chunks_are_all_of_it_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probes.data.examples._CHUNK", 70)
    chunks = list(drawn().chunks())
    assert [len(chunk) for chunk in chunks] == [70, 70, 70, 70, 20]
    for name in ("programs", "where", "family"):
        assert np.array_equal(np.concatenate([getattr(c, name) for c in chunks]), getattr(drawn(), name))
    assert np.array_equal(chunks[1].sequences, tokens.sequences(drawn().programs[70:140]))


def test_the_tokens_probed_are_a_programs_own_without_hindsight() -> None:
    texts = ["3a+4=.", "f12={3}.", "f{3}3=.", "{3}f3=.", "12==."]
    programs = tokens.encode(texts)
    examples = Examples.of(programs)
    behind = hindsight.undetermined(programs)
    assert behind.any()
    assert not behind.all(1).any()
    for row, text in enumerate(texts):
        for position in range(programs.shape[1] + 1):
            own = 0 < position <= len(text)
            assert examples.where[row, position] == (own and not behind[row, position]), (text, position)
    assert examples.families == ("",)
    assert examples.family.tolist() == 5 * [0]


def test_two_skeletons_are_too_few() -> None:
    with pytest.raises(ValueError, match="2 skeletons cannot be split into train, validation, test"):
        Examples.of(tokens.encode(["3=.", "4=.", "33=."]))


# --- targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "category"),
    [
        *(("stack.0.kind", True), ("reg.a.tag", True), ("reg.b.live", True), ("needed.relation", True)),
        *(("all_true", True), ("depth.mod3", True), ("stack.0.digit1", True), ("reg.a.parity", True)),
        *(("depth", False), ("stack.0", False), ("stack.0.value", False), ("reg.a.magnitude", False)),
        *(("reg.c.read_distance", False), ("stack.1.length", False), ("needed.value", False), ("mod3", False)),
    ],
)
def test_categories_and_numbers(variable: str, category: bool) -> None:
    assert is_category(variable) == category
    assert Target(variable).number == (not category)


def test_a_target_says_what_it_is() -> None:
    assert Target("reg.a.value").determined
    assert Target("reg.a.value", -3).determined
    assert not Target("reg.a.value", 1).determined
    assert not Target("reg.a.live").determined
    assert Target(even).determined
    assert (Target("depth").name, Target(even).name, Target(partial(even)).name) == ("depth", "even", "partial")
    assert Target(even).number

    def of_category(traces):
        return even(traces)

    of_category.category = True
    assert not Target(of_category).number


# --- labels ----------------------------------------------------------------------------------------------------------

VARIABLES = (
    "depth",
    "stack.0.value",
    "stack.0.kind",
    "reg.a.value",
    "reg.a.live",
    "all_true",
    even,
    large,
    my_all_true,
)
TARGETS = tuple(
    Target(variable, offset, machine)
    for variable in VARIABLES
    for offset in (0, -1, 2)
    for machine in (TRUE_MACHINE, "other")
)


@cache
def read() -> Labelled:
    return labelled(drawn(), TARGETS, {"other": OTHER})


def test_labels_are_those_of_the_states() -> None:
    examples, found = drawn(), read()
    for k, target in enumerate(TARGETS):
        traces = kernel.traces(examples.programs, OTHER if target.machine == "other" else None)
        expected = variables.read(traces, target.variable, offset=target.offset)
        lengths = np.array([len(text.rstrip(".")) for text in tokens.decode(examples.programs)])
        last = lengths[:, None] + 1 - target.offset  # the program's own `.` is a token of it
        inside = expected.defined & examples.where & (np.arange(examples.where.shape[1]) <= last)
        small = abs(expected.values) <= 99
        values, defined = found.of(k)
        assert np.array_equal(defined, inside & small), target
        assert np.array_equal(values[defined], expected.values[inside & small]), target
        assert not values[~defined].any()
        assert found.outside[k] == (inside & ~small).sum()
        taken = np.flatnonzero(found.taken()[k]) - 99
        assert taken.tolist() == np.unique(values[defined]).tolist()
    assert found.outside.max() > 0
    true, other = (found.of(TARGETS.index(Target("stack.0.value", 0, name)))[0] for name in (TRUE_MACHINE, "other"))
    assert (true != other).any()


def test_rows_are_tokens() -> None:
    programs, positions = np.nonzero(drawn().where)
    order = np.random.default_rng(0).permutation(len(programs))[:500]
    values, defined = read().at(programs[order], positions[order])
    assert values.shape == (500, len(TARGETS))
    assert defined.shape == (500, read().defined.shape[1])
    for k in range(len(TARGETS)):
        everywhere, known = read().of(k)
        assert np.array_equal(values[:, k], everywhere[programs[order], positions[order]])
        assert np.array_equal(defined[:, read().mask_of[k]], known[programs[order], positions[order]])
    assert not read().of(0)[1][~drawn().where].any()


def test_masks_are_shared_where_they_are_equal_whatever_the_programs() -> None:
    targets = (
        *(Target("stack.0.value"), Target("stack.0.value", as_number=True), Target("stack.0.value", permuted=True)),
        *(Target("stack.0.kind"), Target("all_true"), Target("reg.a.live", machine="other"), Target("stack.0.kind", 1)),
        *(Target("stack.0.value", 1), Target("stack.0.value", 0, "other"), Target(my_all_true), Target(even)),
        *(Target(lambda traces: even(traces)), Target(lambda traces: my_all_true(traces))),
    )
    found = labelled(drawn(), targets, {"other": OTHER})
    assert found.mask_of.tolist() == [0, 0, 0, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8]
    assert np.array_equal(found.of(9)[1], found.of(12)[1]), "functions of one name are told apart"
    assert not np.array_equal(found.of(11)[1], found.of(12)[1])
    assert labelled(drawn()[:3], targets, {"other": OTHER}).mask_of.tolist() == found.mask_of.tolist()


def test_permuted_labels_keep_the_marginal_of_every_pair_of_tokens() -> None:
    examples = drawn()
    targets = [Target(v, permuted=permuted) for v in ("stack.0.value", "depth") for permuted in (False, True)]
    found, again, other = (labelled(examples, targets, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(found.values, again.values)
    assert not np.array_equal(found.values, other.values)
    texts = ["." + text.ljust(examples.programs.shape[1], ".") for text in tokens.decode(examples.programs)]
    for plain, permuted in ((0, 1), (2, 3)):
        (values, defined), (moved, where) = found.of(plain), found.of(permuted)
        assert np.array_equal(defined, where)
        counts = [defaultdict(Counter) for _ in range(2)]
        for row, position in np.argwhere(defined).tolist():
            pair = texts[row][position - 1 : position + 1]
            counts[0][pair][values[row, position]] += 1
            counts[1][pair][moved[row, position]] += 1
        assert counts[0] == counts[1]
        assert (values != moved)[defined].mean() > 0.2
        assert not moved[~defined].any()


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"machine 'alternative 1' is none of true, other; pass its semantics in mach"):
        labelled(drawn(), [Target("depth", 0, "alternative 1")], {"other": OTHER})
    with pytest.raises(ValueError, match="unknown variable 'depht'"):
        labelled(drawn(), [Target("depht")])


def test_texts_are_to_be_encoded() -> None:
    with pytest.raises(ValueError, match=r"programs are a list; expected uint8 \[n, width\]: encode texts with"):
        Examples.of(["34+7=.", "12+3=."])
