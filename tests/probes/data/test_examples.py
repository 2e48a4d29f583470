"""Programs, tokens and labels that probes are judged on, against `variables.read` and plain loops."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import cache

import numpy as np
import pytest

from cadmus.machine import kernel, tokens, vm
from cadmus.programs import mixture, splits
from cadmus.programs.families import Compare, Register
from cadmus.programs.holdout import HoldOut
from cadmus.programs.mixture import Component, Mixture
from cadmus.states import hindsight, variables
from probes.data.examples import Examples, Labelled, draw, labelled
from probes.data.folds import FOLDS, skeleton_folds, skeleton_ids
from probes.data.targets import TRUE_MACHINE, Target, Targets

OTHER = vm.Semantics({"+": "-", "-": "+"})


@cache
def some_programs(n: int = 300) -> Examples:
    return draw(mixture.load("first"), n)


def even(traces: kernel.Traces) -> tuple[np.ndarray, np.ndarray]:
    return traces.depth % 2, traces.depth > 0


def large(traces: kernel.Traces) -> tuple[np.ndarray, np.ndarray]:
    return 60 * traces.depth, np.ones(traces.depth.shape, np.bool_)


def my_all_true(traces: kernel.Traces) -> tuple[np.ndarray, np.ndarray]:
    return traces.all_true, traces.depth > 1


# --- programs --------------------------------------------------------------------------------------------------------


def test_programs_are_of_held_out_skeletons_in_the_mixtures_shares() -> None:
    examples = some_programs()
    assert examples.families == ("compare", "equality", "register")
    assert np.bincount(examples.family).tolist() == [150, 50, 100]
    assert (splits.splits(examples.programs) == splits.SPLITS.index("test_skeleton")).all()
    assert len(np.unique(examples.programs, axis=0)) == len(examples)
    first = mixture.load("first")
    for family, program in zip(examples.family, tokens.decode(examples.programs), strict=True):
        assert first.families[family].accepts(program)
    assert (np.diff(examples.family.astype(int)) != 0).sum() > 100, "families are mixed"


def test_a_draw_is_fixed_by_its_seed() -> None:
    again, other = draw(mixture.load("first"), 300), draw(mixture.load("first"), 300, 1)
    for name in ("programs", "family", "skeletons", "folds", "where"):
        assert np.array_equal(getattr(again, name), getattr(some_programs(), name)), name
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
    hold_out = HoldOut(pairs=("0A",))
    mixed = Mixture("held", (Component(Register(max_stores=2)),), hold_out=hold_out)
    assert not hold_out.holds_out(draw(mixed, 300).programs).any()
    assert hold_out.holds_out(draw(Mixture("free", mixed.components), 300).programs).any()


def test_folds_are_by_skeleton() -> None:
    examples = some_programs()
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
    chunks = list(some_programs().chunks())
    assert [len(chunk) for chunk in chunks] == [70, 70, 70, 70, 20]
    for name in ("programs", "where", "family"):
        assert np.array_equal(np.concatenate([getattr(c, name) for c in chunks]), getattr(some_programs(), name))
    assert np.array_equal(chunks[1].sequences, tokens.sequences(some_programs().programs[70:140]))


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
def label_all() -> Labelled:
    return labelled(some_programs(), TARGETS, {"other": OTHER})


def test_labels_are_those_of_the_states() -> None:
    examples, labels = some_programs(), label_all()
    for k, target in enumerate(TARGETS):
        traces = kernel.traces(examples.programs, OTHER if target.machine == "other" else None)
        expected = variables.read(traces, target.variable, offset=target.offset)
        lengths = np.array([len(text.rstrip(".")) for text in tokens.decode(examples.programs)])
        last = lengths[:, None] + 1 - target.offset  # the program's own `.` is a token of it
        inside = expected.defined & examples.where & (np.arange(examples.where.shape[1]) <= last)
        small = abs(expected.values) <= 99
        values, mask = labels.of(k)
        assert np.array_equal(mask, inside & small), target
        assert np.array_equal(values[mask], expected.values[inside & small]), target
        assert not values[~mask].any()
        assert labels.outside[k] == (inside & ~small).sum()
        table = np.flatnonzero(labels.value_table()[k]) - 99
        assert table.tolist() == np.unique(values[mask]).tolist()
    assert labels.outside.max() > 0
    true, other = (labels.of(TARGETS.index(Target("stack.0.value", 0, name)))[0] for name in (TRUE_MACHINE, "other"))
    assert (true != other).any()


def test_labels_keep_the_machines_traces() -> None:
    for targets in (TARGETS, [Target("depth", machine="other")]):
        labels = labelled(some_programs(), targets, {"other": OTHER})
        assert np.array_equal(labels.traces.depth, kernel.traces(some_programs().programs).depth)
        assert list(labels.targets) == list(targets)


def test_rows_are_tokens() -> None:
    programs, positions = np.nonzero(some_programs().where)
    order = np.random.default_rng(0).permutation(len(programs))[:500]
    labels = label_all()
    values, mask = labels.at(programs[order], positions[order])
    assert values.shape == mask.shape == (500, len(TARGETS))
    assert np.array_equal(labels.mask[order], mask)
    for k in range(len(TARGETS)):
        values_everywhere, mask_everywhere = labels.of(k)
        assert np.array_equal(values[:, k], values_everywhere[programs[order], positions[order]])
        assert np.array_equal(mask[:, k], mask_everywhere[programs[order], positions[order]])
    assert not labels.of(0)[1][~some_programs().where].any()


def test_masks_are_shared_where_they_are_equal_whatever_the_programs() -> None:
    targets = Targets(
        [
            Target("stack.0.value"),
            Target("stack.0.value", regression=True),
            Target("stack.0.value", permuted=True),
            Target("stack.0.kind"),
            Target("all_true"),
            Target("reg.a.live", machine="other"),
            Target("stack.0.kind", 1),
            Target("stack.0.value", 1),
            Target("stack.0.value", 0, "other"),
            Target(my_all_true),
            Target(even),
            Target(lambda traces: even(traces)),
            Target(lambda traces: my_all_true(traces)),
        ]
    )
    labels = labelled(some_programs(), targets, {"other": OTHER})
    assert labels.mask_of.tolist() == [0, 0, 0, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8]
    assert np.array_equal(labels.of(9)[1], labels.of(12)[1]), "functions of one name are told apart"
    assert not np.array_equal(labels.of(11)[1], labels.of(12)[1])
    assert labelled(some_programs()[:3], targets, {"other": OTHER}).mask_of.tolist() == labels.mask_of.tolist()


def test_permuted_labels_keep_the_marginal_of_every_pair_of_tokens() -> None:
    examples = some_programs()
    targets = [Target(v, permuted=permuted) for v in ("stack.0.value", "depth") for permuted in (False, True)]
    labels, again, other = (labelled(examples, targets, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(labels.values, again.values)
    assert not np.array_equal(labels.values, other.values)
    texts = ["." + text.ljust(examples.programs.shape[1], ".") for text in tokens.decode(examples.programs)]
    for plain, permuted in ((0, 1), (2, 3)):
        (values, mask), (moved, moved_mask) = labels.of(plain), labels.of(permuted)
        assert np.array_equal(mask, moved_mask)
        counts = [defaultdict(Counter) for _ in range(2)]
        for row, position in np.argwhere(mask).tolist():
            pair = texts[row][position - 1 : position + 1]
            counts[0][pair][values[row, position]] += 1
            counts[1][pair][moved[row, position]] += 1
        assert counts[0] == counts[1]
        assert (values != moved)[mask].mean() > 0.2
        assert not moved[~mask].any()


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"machine 'alternative 1' is none of true, other; pass its semantics in mach"):
        labelled(some_programs(), [Target("depth", 0, "alternative 1")], {"other": OTHER})
    with pytest.raises(ValueError, match="unknown variable 'depht'"):
        labelled(some_programs(), [Target("depht")])


def test_texts_are_to_be_encoded() -> None:
    with pytest.raises(ValueError, match=r"programs are a list; expected uint8 \[n, width\]: encode texts with"):
        Examples.of(["34+7=.", "12+3=."])
