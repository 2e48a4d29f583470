"""What targets are, and which of them belong together."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from cadmus.machine import kernel
from probes.data.targets import TRUE_MACHINE, Target, Targets, is_category

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
