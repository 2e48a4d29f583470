"""The compiled machine against the plain one: every state of many programs, and the arrays that hold them."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmus.machine import kernel, tokens, vm
from cadmus.machine.vm import NAN, NanCause, Semantics
from tests import agreement, programs
from tests.cases import CASES, PAPER
from tests.fuzzing import examples

ROOT = Path(__file__).parents[3]
KNOWN = [*PAPER, *(case.text for case in CASES)]
SWAPPED = Semantics({"+": "-", "-": "+"})
relaxed = settings(deadline=None, max_examples=examples(120))

# --- agreement -------------------------------------------------------------------------------------------------------


def test_agreement_on_the_cases() -> None:
    assert agreement.disagreement([text for text in KNOWN if len(text) < 200]) is None
    assert agreement.disagreement([text for text in KNOWN if len(text) >= 200], states=False) is None


@relaxed
@given(st.lists(programs.texts, min_size=1, max_size=8))
def test_agreement_on_random_text(texts: list[str]) -> None:
    assert agreement.disagreement(texts) is None


@pytest.mark.slow
@relaxed
@given(st.lists(programs.programs, min_size=1, max_size=3))
def test_agreement_on_programs(texts: list[str]) -> None:
    assert agreement.disagreement(texts) is None


@pytest.mark.slow
@relaxed
@given(st.lists(programs.programs, min_size=1, max_size=3), programs.machines)
def test_agreement_under_alternative_semantics(texts: list[str], semantics: Semantics) -> None:
    assert agreement.disagreement(texts, semantics) is None


@pytest.mark.slow
def test_agreement_of_many_programs_under_many_machines() -> None:
    r = Random(20)
    for seed in range(12):
        assert agreement.disagreement(programs.stream(seed, 250), programs.machine(r)) is None


@relaxed
@given(programs.programs, st.integers(0, 3))
def test_traces_of_fewer_entries_are_the_top_of_more(text: str, entries: int) -> None:
    array = tokens.encode([text], len(text) + 1)
    traces = kernel.traces(array, entries=entries, contents=True)
    for position, state in enumerate(agreement.all_states(text, len(text) + 1)):
        expected = state.with_stack(state.stack[len(state.stack) - min(entries, len(state.stack)) :])
        assert agreement.kernel_state(traces, 0, position) == expected
        assert traces.depth[0, position] == len(state.stack)
        for missing in range(len(state.stack), entries):
            assert traces.stack.at(0, position, missing) is None


# What the comparison compares: a difference that is planted in one part is found.


@pytest.mark.parametrize(
    ("text", "meanings"),
    [
        ("52+", {"+": "-", "-": "+"}),  # a value on the stack
        ("52'\"", {"5": "3", "3": "5", "2": "4", "4": "2"}),  # a tag
        ("(1,2,R", {"R": "O", "O": "R"}),  # contents of a sequence
        ("(11',12',R", {"R": "O", "O": "R"}),  # tags in a sequence
        ("5A3Bab", {"A": "B", "B": "A"}),  # registers
        ("5A;", {"A": "B", "B": "A"}),  # a register alone
        ("3rA;", {"3": "4", "4": "3"}),  # the contents of a register alone
        ("{1+}{2+2+}3f", {"f": "g", "g": "f"}),  # fuel
        ("3r#", {"#": "S", "S": "#"}),  # nothing: 3 elements, whose sum is 3
    ],
)
def test_planted_differences_are_found(text: str, meanings: dict) -> None:
    same = vm.run(text).states == vm.run(text, Semantics(meanings)).states
    assert same is (text == "3r#")
    assert (agreement.disagreement(["1", text, "2"], kernel_semantics=Semantics(meanings)) is None) is same
    last = vm.run(text).states[-1] == vm.run(text, Semantics(meanings)).states[-1]
    assert (agreement.disagreement([text], states=False, kernel_semantics=Semantics(meanings)) is None) is last


def test_a_disagreement_is_described() -> None:
    message = agreement.disagreement(["1", "52+7.", "52*"], kernel_semantics=SWAPPED)
    assert message is not None
    assert "'52+7.'" in message
    assert "after token 2 ('+')" in message
    assert "vm      State(stack=(Int(v=7, tag=0),)" in message
    assert "kernel  State(stack=(Int(v=3, tag=0),)" in message
    assert agreement.disagreement(["1", "52+7.", "52*"], kernel_semantics=Semantics()) is None


# --- what the agreement covers ---------------------------------------------------------------------------------------

ENOUGH, RARE = 1_000, 100


class Coverage:
    """Counts what happens inside programs, over the plain machine's observer."""

    def __init__(self) -> None:
        self.results: Counter[tuple[str, tuple[str, ...]]] = Counter()
        self.causes: Counter[NanCause] = Counter()
        self.events: Counter[str] = Counter()

    def observe(self, token: str, inputs: tuple, outputs: tuple, cause: NanCause | None) -> None:
        kinds = tuple(map(programs.kind_of, inputs))
        if cause is not None:
            self.causes[cause] += 1
            if cause is NanCause.OUT_OF_RANGE:
                self.events[f"{token} of {' '.join(kinds)} leaves the Int range"] += 1
            if cause is NanCause.TOO_LONG and self._length(token, inputs) == vm.MAX_LENGTH + 1:
                self.events[f"{token} to 33 elements is refused"] += 1
            if cause is NanCause.BAD_TAG:
                self.events["tag 10 or more is refused" if inputs[1].v > 0 else "tag below 0 is refused"] += 1
            if cause is NanCause.BAD_COUNT:
                self.events["count 33 is refused"] += inputs[0].v == vm.MAX_LENGTH + 1
                self.events["count below 0 is refused"] += inputs[0].v < 0
            if cause is NanCause.NO_ELEMENT:
                self.events["index = length is refused"] += inputs[1].v == len(inputs[0])
                self.events["index -1 is refused"] += inputs[1].v == -1
            if cause in (NanCause.CALL_DEPTH, NanCause.UNBOUND, NanCause.BAD_RESULT, NanCause.NO_RESULT):
                self.events[f"{token}: {cause}"] += 1
            return
        if NAN in outputs:
            self.events[f"{token} stores or returns NAN"] += 1
            return
        if NAN not in inputs:
            self.results[token, kinds] += 1
        elif token in "ABCD":
            self.events[f"{token} writes NAN"] += 1
        if token in ",Qr" and len(outputs[0]) == vm.MAX_LENGTH:
            self.events[f"{token} reaches 32 elements"] += 1
        if token in "+-*SP" and any(abs(v) == vm.MAX_INT for v in self._integers(outputs[0])):
            self.events[f"{token} reaches the end of the Int range"] += 1
        if token in "?FGH" and len(inputs) == len(vm.INSTRUCTIONS[token].input_types):
            self.events[f"{token} with a {'true' if vm.truth(inputs[0]) else 'false'} {kinds[0]}"] += 1
        if token == "O":
            pairs = itertools.pairwise(inputs[0])
            self.events["O of equal values, tags falling"] += any(a.v == b.v and a.tag > b.tag for a, b in pairs)
        if token in "MW":
            self.events[f"{token} of {'an empty' if not len(inputs[0]) else 'a longer'} Seq"] += 1
        if token in "+-*/%xn<>=&|" and len(outputs) and kinds != ("int", "int") and not len(outputs[0]):
            self.events[f"{token} of an empty Seq"] += 1

    @staticmethod
    def _length(token: str, inputs: tuple) -> int:
        return len(inputs[0]) + (1 if token == "," else len(inputs[1]))

    @staticmethod
    def _integers(value: vm.Value) -> list[int]:
        return [value.v] if isinstance(value, vm.Int) else [item.v for item in value]

    def run(self, text: str) -> None:
        machine = vm.Machine(text, observer=self.observe)
        for position in machine.positions:
            machine.advance(position)
        self.events["fuel runs out"] += machine.out_of_fuel
        self.events["4096 instructions complete"] += machine.fuel == 0 and not machine.out_of_fuel
        self.events["a true-program"] += vm.all_true(machine.stack)
        self.events["a false-program"] += not vm.all_true(machine.stack)
        read, _, behind = text.partition(vm.END)
        self.events["text behind the ."] += bool(behind.strip(vm.END))
        self.events["4 or more definitions"] += _definitions(read) > 3
        self.events["a { inside a body"] += any(vm.OPEN in body for body in machine.bodies.values())
        self.events["a stray }"] += any(text[position] == vm.CLOSE for position in machine.positions)
        self.events["an unterminated definition"] += read.rfind(vm.OPEN) > read.rfind(vm.CLOSE)
        self.events["a . inside a definition"] += vm.END in text and read.rfind(vm.OPEN) > read.rfind(vm.CLOSE)
        self.events["a call before its definition"] += _hoisted(read, machine)


def _definitions(text: str) -> int:
    remaining, count = text, 0
    while vm.OPEN in remaining:
        remaining, count = remaining.partition(vm.OPEN)[2].partition(vm.CLOSE)[2], count + 1
    return count


def _hoisted(text: str, machine: vm.Machine) -> bool:
    """Whether f is bound and called in the main text before the first definition."""
    return "f" in machine.bodies and any(text[p] == "f" for p in machine.positions if p < text.index(vm.OPEN))


COMMON_EVENTS = {
    "a true-program",
    "a false-program",
    *(f"{token} with a {c} {kind}" for token in "?FGH" for c in ("true", "false") for kind in ("int", "seq")),
    "M of an empty Seq",
    "M of a longer Seq",
    "W of an empty Seq",
    "W of a longer Seq",
}
RARE_EVENTS = {
    "O of equal values, tags falling",
    *(f"{token} writes NAN" for token in "ABCD"),
    "fuel runs out",
    "4096 instructions complete",
    *(f"{token} of {kinds} leaves the Int range" for token in "+-*" for kinds in ("int int", "int seq", "seq int")),
    *(f"{token} of seq leaves the Int range" for token in "SP"),
    *(f"{token} reaches the end of the Int range" for token in "+-*SP"),
    *(f"{token} reaches 32 elements" for token in ",Qr"),
    *(f"{token} to 33 elements is refused" for token in ",Q"),
    "count 33 is refused",
    "count below 0 is refused",
    "tag 10 or more is refused",
    "tag below 0 is refused",
    "index = length is refused",
    "index -1 is refused",
    *(f"{token}: {NanCause.CALL_DEPTH}" for token in "fFM"),
    *(f"{token}: {NanCause.UNBOUND}" for token in "fghFGHMW"),
    *(f"{token}: {NanCause.BAD_RESULT}" for token in "MW"),
    *(f"{token}: {NanCause.NO_RESULT}" for token in "fF"),
    *(f"{token} of an empty Seq" for token in "+-*/%xn<>=&|"),
    "text behind the .",
    "4 or more definitions",
    "a { inside a body",
    "a stray }",
    "an unterminated definition",
    "a . inside a definition",
    "a call before its definition",
}


@pytest.mark.slow
def test_the_agreement_covers_the_machine() -> None:
    """Every instruction with every combination of input types that it takes has a result 1,000 times, every way to fail
    and every limit is met 100 times, in programs whose every state the kernel gives as the plain machine does."""
    coverage = Coverage()
    n_compared = 0
    for seed in range(1, 16):
        texts = programs.stream(seed, 2_000)
        for text in texts:
            coverage.run(text)
        assert agreement.disagreement(texts) is None
        n_compared += len(texts)
    assert n_compared == 30_000
    counts: dict[object, tuple[int, int]] = {}
    for combination in [*programs.COMBINATIONS, ("{", ()), *((str(d), ()) for d in range(10))]:
        counts[combination] = (coverage.results[combination], ENOUGH)
    for cause in NanCause:
        counts[cause] = (coverage.causes[cause], RARE)
    for event in COMMON_EVENTS:
        counts[event] = (coverage.events[event], ENOUGH)
    for event in RARE_EVENTS:
        counts[event] = (coverage.events[event], RARE)
    rare = {what: count for what, (count, minimum) in counts.items() if count < minimum}
    assert not rare, f"too few of {rare}"
    assert {token for token, _ in coverage.results} == set(vm.VOCAB) - {vm.END}


def test_the_combinations_are_all_there_are() -> None:
    """The list that the coverage is counted over follows from the signatures alone."""
    types = {"int": 1, "seq": 1, "any": 2, "num": 2}
    for row in vm.INSTRUCTIONS.values():
        if row.token in ".{" or row.token.isdigit():
            continue
        expected = 1
        for kind in row.input_types:
            expected *= types[kind]
        assert len({kinds for token, kinds in programs.COMBINATIONS if token == row.token}) == expected


# --- the command -----------------------------------------------------------------------------------------------------


def _agreement(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.agreement", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_the_agreement_command() -> None:
    process = _agreement("20000", "--processes", "1", "--seed", "5", "--states", "0")
    assert process.returncode == 0, process.stdout + process.stderr
    assert "20,000 of 20,000 programs agreed (seed 5)" in process.stdout


def test_the_agreement_command_over_processes_finds_a_planted_difference() -> None:
    process = _agreement("300", "--processes", "2", "--plant")
    assert process.returncode == 1, process.stdout + process.stderr
    assert "the machines differ on" in process.stdout
    assert "agreed" not in process.stdout


def test_the_agreement_command_refuses_nonsense() -> None:
    process = _agreement("0")
    assert process.returncode == 2
    assert "must be 1 or more" in process.stderr


def test_programs_are_reproducible() -> None:
    assert programs.stream(3, 200) == programs.stream(3, 200)
    assert programs.stream(3, 200) != programs.stream(4, 200)


# --- the interface ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [kernel.verdicts, kernel.traces])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            np.zeros((2, 3), np.int64),
            r"programs must be a uint8 array \[n, length\], not int64 \[2, 3\]; see tokens.encode",
        ),
        (np.zeros((2, 3)), r"not float64 \[2, 3\]"),
        (np.zeros(3, np.uint8), r"programs must be a uint8 array \[n, length\], not uint8 \[3\]; see tokens.encode"),
        (np.zeros((1, 2, 3), np.uint8), r"not uint8 \[1, 2, 3\]"),
        ([[0, 1]], r"not int64 \[1, 2\]"),
        (["34+"], r"programs must be a uint8 array .* see tokens.encode"),
        (np.array([[1, 2], [3, 65]], np.uint8), r"token id 65 in program 1 at position 1 is outside 0\.\.64"),
        (np.full((1, 1), 255, np.uint8), r"token id 255 in program 0 at position 0 is outside 0\.\.64"),
    ],
)
def test_inputs_that_are_refused(call, wrong, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(wrong)


def test_negative_entries() -> None:
    with pytest.raises(
        ValueError, match="entries is -1; it counts stack entries from the top, so it must be 0 or more"
    ):
        kernel.traces(tokens.encode(["1"]), entries=-1)


@pytest.mark.parametrize("width", [0, 5])
def test_no_programs(width: int) -> None:
    none = np.zeros((0, width), np.uint8)
    assert kernel.verdicts(none).shape == (0,)
    assert kernel.verdicts(none).dtype == np.bool_
    for contents in (False, True):
        traces = kernel.traces(none, entries=2, contents=contents)
        assert traces.depth.shape == traces.fuel.shape == traces.all_true.shape == (0, width)
        assert traces.stack.kind.shape == (0, width, 2)
        assert traces.registers.kind.shape == (0, width, 4)


def test_programs_of_no_tokens() -> None:
    empty = np.zeros((3, 0), np.uint8)
    assert kernel.verdicts(empty).tolist() == [False] * 3
    assert kernel.traces(empty, contents=True).stack.kind.shape == (3, 0, 4)


def test_shapes_and_types() -> None:
    array = tokens.encode(["3r2'", "12+", ""])
    traces = kernel.traces(array, entries=3, contents=True)
    assert (traces.depth.dtype, traces.fuel.dtype, traces.all_true.dtype) == (np.int32, np.int16, np.bool_)
    for values, entries in ((traces.stack, 3), (traces.registers, 4)):
        for field, dtype in (("kind", np.uint8), ("value", np.int32), ("tag", np.uint8), ("length", np.uint8)):
            array_of_field = getattr(values, field)
            assert (array_of_field.shape, array_of_field.dtype) == ((3, 4, entries), dtype)
        assert (values.offsets.shape, values.offsets.dtype) == ((3, 4, entries), np.int64)
        assert (values.elements.dtype, values.element_tags.dtype) == (np.int32, np.uint8)
    verdicts = kernel.verdicts(array)
    assert (verdicts.shape, verdicts.dtype) == ((3,), np.bool_)


def test_contents_are_given_where_they_were_asked_for() -> None:
    array = tokens.encode(["3r2'"])
    assert kernel.traces(array, contents=True).stack.at(0, 3, 0) == vm.Seq([vm.Int(v, 2) for v in range(3)])
    bare = kernel.traces(array)
    assert bare.stack.offsets is None
    assert bare.stack.elements is None
    assert bare.stack.length[0, 3, 0] == 3
    assert bare.stack.at(0, 0, 0) == vm.Int(3)
    assert bare.stack.at(0, 0, 1) is None
    assert bare.registers.at(0, 3, 0) is NAN
    with pytest.raises(ValueError, match="the contents of sequences were not recorded; trace with contents=True"):
        bare.stack.at(0, 3, 0)


def test_values_are_indexed_as_arrays_are() -> None:
    traces = kernel.traces(tokens.encode(["12", "3r"]), contents=True)
    row = traces.stack[1]
    assert row.kind.shape == (2, 4)
    assert row.at(1, 0) == vm.Seq(range(3))
    assert traces.stack[:, -1][:, :2].at(0, 1) == vm.Int(1)


def test_threads_do_not_matter() -> None:
    array = tokens.encode(programs.stream(9, 3_000))
    assert np.array_equal(kernel.verdicts(array, threads=1), kernel.verdicts(array, threads=2))
    assert np.array_equal(kernel.verdicts(array, SWAPPED, threads=1), kernel.verdicts(array, SWAPPED))
    first, second = (kernel.traces(array[:600], contents=True, threads=threads) for threads in (1, 2))
    for field in ("depth", "fuel", "all_true"):
        assert np.array_equal(getattr(first, field), getattr(second, field))
    for mine, theirs in ((first.stack, second.stack), (first.registers, second.registers)):
        for field in ("kind", "value", "tag", "length", "offsets", "elements", "element_tags"):
            assert np.array_equal(getattr(mine, field), getattr(theirs, field))


def test_a_row_does_not_see_its_neighbours() -> None:
    texts = programs.stream(11, 300)
    array = tokens.encode(texts)
    together = kernel.verdicts(array, threads=1)
    assert np.array_equal(kernel.verdicts(array[::-1], threads=1), together[::-1])
    assert np.array_equal(kernel.verdicts(np.asfortranarray(array), threads=1), together)
    alone = [kernel.verdicts(tokens.encode([text]), threads=1)[0] for text in texts]
    assert np.array_equal(alone, together)
    assert together.any()
    assert not together.all()


def test_padding_does_not_matter() -> None:
    texts = programs.stream(12, 300)
    array = tokens.encode(texts)
    wider = tokens.encode(texts, array.shape[1] + 9)
    assert np.array_equal(kernel.verdicts(array), kernel.verdicts(wider))
    narrow, wide = kernel.traces(array), kernel.traces(wider)
    assert np.array_equal(narrow.depth, wide.depth[:, : array.shape[1]])
    assert (wide.depth[:, array.shape[1] :] == narrow.depth[:, -1:]).all()
    assert (wide.fuel[:, array.shape[1] :] == narrow.fuel[:, -1:]).all()


def test_the_input_is_left_alone() -> None:
    array = tokens.encode(programs.stream(13, 50))
    before = array.copy()
    kernel.verdicts(array)
    kernel.traces(array, contents=True)
    assert np.array_equal(array, before)


# --- what is left on top ---------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=examples(60))
@given(st.lists(st.text("0123456789.+-*/=:;A(,#ra{}fMW'\"", max_size=12), min_size=1, max_size=20))
def test_tops_are_the_last_outputs_of_the_plain_machine(texts: list[str]) -> None:
    tops = kernel.tops(tokens.encode(texts))
    for i, text in enumerate(texts):
        outputs = vm.run(text).outputs
        if not outputs:
            assert tops.kind[i] == kernel.NONE_KIND
        elif isinstance(outputs[-1], vm.Seq):
            assert (tops.kind[i], tops.length[i]) == (kernel.SEQ_KIND, len(outputs[-1]))
        else:
            assert tops.at(i) == outputs[-1]


def test_tops_run_on_threads_and_on_nothing() -> None:
    many = tokens.encode(["34+7", "(1,2,", "10/", ""] * 1000)
    alone, together = (kernel.tops(many, threads=threads) for threads in (1, 4))
    assert np.array_equal(alone.value, together.value)
    assert np.array_equal(alone.kind, together.kind)
    assert len(kernel.tops(np.zeros((0, 3), np.uint8)).kind) == 0
