"""What targets are, and which of them belong together."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from cadmus.machine import kernel, tokens
from probes.data.targets import TRUE_MACHINE, Target, Targets, is_category, read

CATEGORIES = (
    "stack.0.kind",
    "reg.a.tag",
    "reg.b.live",
    "needed.relation",
    "all_true",
    "depth.mod3",
    "stack.0.digit1",
    "reg.a.parity",
)
NUMBERS = (
    "depth",
    "stack.0",
    "stack.0.value",
    "reg.a.magnitude",
    "reg.c.read_distance",
    "stack.1.length",
    "needed.value",
    "mod3",
)


def even(traces: kernel.Traces) -> tuple[np.ndarray, np.ndarray]:
    return traces.depth % 2, traces.depth > 0


def test_categories_and_numbers() -> None:
    for variable in (*CATEGORIES, *NUMBERS):
        assert is_category(variable) == (variable in CATEGORIES), variable
        assert Target(variable).number == (variable in NUMBERS), variable


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


TARGETS = Targets(
    [
        Target("depth"),
        Target("stack.0.kind", 1),
        Target("depth", regression=True),
        Target("depth", permuted=True),
        Target("depth", machine="other"),
        Target("depth", machine="other", permuted=True),
        Target(even),
        Target("stack.0.kind", 1, "another"),
    ]
)


def test_targets_are_a_sequence() -> None:
    assert len(TARGETS) == 8
    assert TARGETS[1] == Target("stack.0.kind", 1)
    assert list(TARGETS[2:4]) == [Target("depth", regression=True), Target("depth", permuted=True)]
    assert list(TARGETS[np.array([6, 0])]) == [Target(even), Target("depth")]
    for k, target in enumerate(TARGETS):
        assert TARGETS.index(target) == k
        assert target in TARGETS
    assert Target("depth", 1) not in TARGETS
    with pytest.raises(ValueError, match=r"Target\(variable='depth', offset=1, .*\) is none of the 8 targets"):
        TARGETS.index(Target("depth", 1))
    with pytest.raises(ValueError, match="is none of the 8 targets"):
        TARGETS.index(Target("depth"), 1)
    assert Targets([Target("depth"), Target(even), Target("depth")]).index(Target("depth")) == 0


def test_the_machines_own_targets_are_neither_controls_nor_of_other_machines() -> None:
    assert TARGETS.own.tolist() == [0, 1, 2, 6]
    assert TARGETS.own.dtype == np.int64
    assert TARGETS.own_states.tolist() == [0, 3, 6]
    assert TARGETS.machines == ("other", "another")
    assert Targets([]).own.shape == (0,)
    mask = np.array([target.permuted for target in TARGETS])
    assert list(TARGETS[mask]) == list(TARGETS[np.flatnonzero(mask)]) == [t for t in TARGETS if t.permuted]
    assert repr(TARGETS) == "Targets(8: 4 of the machine, 2 alternative machines)"


def test_controls_and_counterparts_are_found() -> None:
    assert [TARGETS.control_of(k) for k in range(8)] == [3, None, None, 3, 5, 5, None, None]
    assert [TARGETS.on_machine(k, "other") for k in range(8)] == [4, None, None, 5, 4, 5, None, None]
    assert TARGETS.on_machine(4, TRUE_MACHINE) == 0
    assert TARGETS.counterparts.tolist() == [0, 1, 2, 0, 0, 0, 6, 1]


def test_claims_are_made_of_classifiers_and_of_numbers_that_only_a_regression_reads() -> None:
    targets = Targets(
        [
            Target("depth"),
            Target("depth", regression=True),
            Target("stack.0.value", regression=True),
            Target("depth", permuted=True),
            Target("depth", where="loaded"),
        ]
    )
    assert targets.main.tolist() == [0, 2, 4]
    assert targets.own_states.tolist() == [0, 3], "code lengths are of all tokens"


def test_a_function_may_ask_for_the_programs() -> None:
    programs = tokens.encode(["12+3=.", "95-4=."])
    traces = kernel.traces(programs)

    def at_digits(traces: kernel.Traces, programs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return traces.depth, tokens.classes(programs) == list(tokens.TOKEN_CLASSES).index("digit")

    labels = read(traces, programs, at_digits)
    assert labels.defined[0].tolist() == [False, True, True, False, True, False, False]
    assert labels.values[0, [1, 2, 4]].tolist() == [1, 2, 2]
    assert read(traces, programs, at_digits, offset=1).defined[0, :2].tolist() == [True, True]
    assert read(traces, programs, even).defined.sum() == (traces.depth > 0).sum()
    assert Target(at_digits).name == "at_digits"
    optional = partial(lambda traces, programs=None: (traces.depth, traces.depth > 0))
    assert read(traces, programs, optional).defined[0, 1], "what may be left out is not asked for"
