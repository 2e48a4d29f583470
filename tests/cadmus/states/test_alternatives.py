"""Other machines against the plain one: what moves, how far it lies, and that the labels stay as hard."""

from __future__ import annotations

import math
import re
from collections import Counter
from functools import cache

import numpy as np
import pytest

from cadmus.corpora.held_out import held_out
from cadmus.corpora.shards import stack_programs
from cadmus.machine import kernel, tokens, vm
from cadmus.programs import mixture
from cadmus.states import variables
from cadmus.states.alternatives import ENTROPY_LIMIT, NAN_LIMIT, VARIABLES, Alternative, alternatives, signatures
from tests import agreement

N = 4


@cache
def held_out_programs(n: int, seed: int) -> np.ndarray:
    """Programs of the default mixture, on skeletons that are never trained on."""
    default = mixture.load("default")
    return stack_programs(
        [
            held_out(family, "test_skeleton", max(1, round(n * share)), seed)
            for family, share in zip(default.families, default.shares, strict=True)
        ]
    )


@cache
def four_alternatives() -> tuple[Alternative, ...]:
    return tuple(alternatives(held_out_programs(600, 0), N, seed=3, candidates=40))


# --- what may move ---------------------------------------------------------------------------------------------------


def test_signatures() -> None:
    assert signatures() == ("+-*/%xn", "<>=&|", "~m", "ABCD", "#SX", "RTOP")


def test_meanings_move_within_their_signature() -> None:
    for alternative in four_alternatives():
        meanings = alternative.semantics.meanings
        assert sorted(meanings) == sorted(meanings.values())
        for token, meaning in meanings.items():
            assert any(token in group and meaning in group for group in signatures())
            assert vm.INSTRUCTIONS[token].signature == vm.INSTRUCTIONS[meaning].signature
        assert set(alternative.moved) == {f"{token} means {meaning}" for token, meaning in meanings.items()}


def test_no_alternative_is_the_true_machine_or_another() -> None:
    assert all(alternative.semantics.meanings and alternative.distance > 0 for alternative in four_alternatives())
    assert len({alternative.semantics for alternative in four_alternatives()}) == N


def test_alternatives_are_graded() -> None:
    """They lie near 1/n, 2/n, ..., 1 of the greatest distance."""
    distances = np.array([alternative.distance for alternative in four_alternatives()])
    assert distances[-1] > 0.15
    assert np.abs(distances / distances[-1] - np.arange(1, N + 1) / N).max() < 0.5 / N
    assert [alternative.name for alternative in four_alternatives()] == [f"alternative {k}" for k in range(1, N + 1)]


def test_alternatives_are_reproducible() -> None:
    programs = held_out_programs(600, 0)[::4]
    first, repeated, other = (alternatives(programs, 2, seed, ["stack.0.value"], candidates=16) for seed in (3, 3, 4))
    assert first == repeated
    assert first != other


# --- what is measured ------------------------------------------------------------------------------------------------


def test_distance_is_a_count_of_executed_instructions() -> None:
    executed: list[str] = []
    for text in tokens.decode(held_out_programs(600, 0)):
        machine = vm.Machine(text, observer=lambda token, *rest: executed.append(token))
        for position in machine.positions:
            machine.advance(position)
    for alternative in four_alternatives():
        moved = sum(alternative.semantics[token] is not vm.INSTRUCTIONS[token] for token in executed)
        assert alternative.distance == pytest.approx(moved / len(executed), abs=1e-12)


@pytest.mark.parametrize(
    ("texts", "distance"),
    [
        (["12+3-="], 2 / 6),
        (["{1+}2f3="], 1 / 6),  # the body is executed: 2 f 1 + 3 =
        (["{1+}3rM6S", "12="], 3 / 14),  # for each element; what is passed over costs nothing
        (["{1+}2"], None),
    ],
)
def test_distance_by_hand(texts: list[str], distance: float | None) -> None:
    programs = tokens.encode([f"{text}." for text in texts] * 40)
    if distance is None:
        with pytest.raises(ValueError, match="0 of 0 other machines are fit, 1 are asked for; pass"):
            alternatives(programs, 1, variables=["depth"], groups=["+-"])
    else:
        (only,) = alternatives(programs, 1, variables=["depth"], groups=["+-"])
        assert only.moved == ("+ means -", "- means +")
        assert only.distance == pytest.approx(distance)
        assert (only.entropy_gap, only.nan_share) == (0, 0)


def _plain_labels(programs: np.ndarray, semantics: vm.Semantics | None) -> tuple[dict[str, float], list[bool]]:
    """Label entropies and where NAN is on top, from the states of the plain machine."""
    counts = {name: Counter() for name in VARIABLES}
    nan = []
    for text in tokens.decode(programs):
        for state in vm.run(text.rstrip(vm.END), semantics).states:
            nan.append(bool(state.stack) and state.stack[-1] is vm.NAN)
            for name in VARIABLES:
                place, which, _ = name.split(".")
                if place == "reg":
                    value = state.registers[which]
                else:
                    value = state.stack[-1 - int(which)] if int(which) < len(state.stack) else None
                if isinstance(value, vm.Int) and abs(value.v) <= 99:
                    counts[name][value.v] += 1
    entropies = {
        name: -sum(n / count.total() * math.log2(n / count.total()) for n in count.values())
        for name, count in counts.items()
    }
    return entropies, nan


def _compiled_labels(programs: np.ndarray, semantics: vm.Semantics | None) -> tuple[dict[str, float], np.ndarray]:
    """`_stats` for many programs: what the compiled machine says."""
    traces = kernel.traces(programs, semantics)
    inside = np.arange(programs.shape[1]) < tokens.lengths(programs)[:, None]
    entropies = {}
    for name in VARIABLES:
        labels = variables.read(traces, name)
        values = labels.values[:, 1:][labels.defined[:, 1:] & inside]
        shares = np.unique(values[abs(values) <= 99], return_counts=True)[1] / (abs(values) <= 99).sum()
        entropies[name] = -(shares * np.log2(shares)).sum()
    return entropies, traces.stack.kind[:, :, 0][inside] == kernel.NAN_KIND


def test_entropies_and_nan_are_those_of_the_states() -> None:
    programs = held_out_programs(600, 0)
    true, true_nan = _plain_labels(programs, None)
    for alternative in four_alternatives()[-1:]:
        other, other_nan = _plain_labels(programs, alternative.semantics)
        assert alternative.entropy_gap == pytest.approx(max(abs(other[name] - true[name]) for name in VARIABLES))
        surplus = [theirs and not ours for theirs, ours in zip(other_nan, true_nan, strict=True)]
        assert alternative.nan_share == pytest.approx(np.mean(surplus))


def test_limits_hold_on_fresh_programs() -> None:
    programs = held_out_programs(1000, 7)
    true, true_nan = _compiled_labels(programs, None)
    for alternative in four_alternatives():
        other, other_nan = _compiled_labels(programs, alternative.semantics)
        assert max(abs(other[name] - true[name]) for name in VARIABLES) <= ENTROPY_LIMIT
        assert (other_nan & ~true_nan).mean() <= NAN_LIMIT


def test_the_machines_agree_under_alternative_semantics() -> None:
    texts = tokens.decode(held_out_programs(600, 0)[::20])
    for alternative in four_alternatives():
        assert agreement.disagreement(texts, alternative.semantics) is None
        assert (
            kernel.verdicts(tokens.encode(texts)).mean()
            > 0.9
            > kernel.verdicts(tokens.encode(texts), alternative.semantics).mean()
        )


# --- what is refused -------------------------------------------------------------------------------------------------


def test_too_few_machines_say_why() -> None:
    """A store that goes elsewhere leaves NAN to load; magnitudes for negations halve what a value can be."""
    programs = tokens.encode(["5Aa5="] * 40)
    message = (
        "0 of 1 other machines are fit, 1 are asked for; 1 may leave NAN on more than 10% of the states; "
        "pass more programs, more candidates or other groups"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        alternatives(programs, 1, variables=["depth"], groups=["AB"])
    signed = tokens.encode([f"{digit}{sign}" for digit in range(1, 10) for sign in ("~", "m")] * 4)
    with pytest.raises(
        ValueError, match=re.escape("; 1 may move the entropy of stack.0.value.sign by more than 0.5 bit;")
    ):
        alternatives(tokens.encode(["5~", "4~"] * 20), 1, variables=["stack.0.value.sign"], groups=["~m"])
    assert alternatives(signed, 1, variables=["stack.0.value"], groups=["~m"])[0].entropy_gap == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 0}, "0 alternatives are asked for out of 192 candidates; ask for 1 or more of as many"),
        ({"n": 9, "candidates": 8}, "9 alternatives are asked for out of 8 candidates"),
        ({"groups": ["+<"]}, "'+' (num num -> num) cannot mean '<' (num num -> bit)"),
        ({"variables": ["stack.0.size"]}, "unknown variable 'stack.0.size'"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        alternatives(tokens.encode(["12+3="] * 40), **arguments)


def test_programs_must_execute_something() -> None:
    with pytest.raises(ValueError, match="the 40 programs execute nothing; pass programs with tokens outside def"):
        alternatives(tokens.encode(["", "{1+}"] * 20), 1)
