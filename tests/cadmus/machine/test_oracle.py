"""The oracle: edits against `vm.resume`, true continuations against running every one of them."""

from __future__ import annotations

import itertools
from collections import Counter
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmus.machine import kernel, oracle, tokens, vm
from tests import oracle_agreement, programs
from tests.fuzzing import examples

ALPHABET = [token for token in vm.VOCAB if token != vm.END]
relaxed = settings(deadline=None, max_examples=examples(60))
seeds = st.integers(0, 2**32 - 1)


# --- one program -----------------------------------------------------------------------------------------------------


def test_what_follows_an_edit() -> None:
    edited = oracle.edit("3A4Bab+7=.", 3, {"reg.a": 5})
    assert edited.outputs == (vm.Int(0),)
    assert not edited.is_true
    assert oracle.edit("3A4Bab+7=.", 3, {"reg.a": 5, "reg.b": 2}).is_true
    assert oracle.edit("3A4Bab+7=.", 5, {"stack.0": 0, "stack.1": 7}).is_true
    assert edited.states[2] == vm.run("3A4Bab+7=.").states[2]
    assert edited.states[3].registers["a"] == vm.Int(5)
    assert repr(edited) == "Counterfactual('3A4Bab+7=.', after token 3: reg.a=5; outputs: 0; False)"
    assert repr(oracle.edit(";", 0, {})) == "Counterfactual(';', after token 0: nothing edited; outputs: none; False)"


def test_an_edit_changes_control_flow() -> None:
    program = "1A5aF6={1+}."
    assert vm.verdict(program) is False  # F takes its condition beneath: 5 is true, so f(1) = 2
    assert oracle.edit(program, 3, {"stack.0": 5}).is_true  # f(5) = 6
    assert oracle.edit(program, 3, {"stack.0": 6, "stack.1": 0}).is_true  # no call is made
    assert oracle.edit("{2%}6rW(1,3,5,=.", 5, {"stack.0": [1, 2, 3, 5]}).is_true


@relaxed
@given(programs.programs, seeds)
def test_edit_is_resume(text: str, seed: int) -> None:
    for case in oracle_agreement.cases(Random(seed), text)[:2]:
        edited = oracle.edit(case.text, case.at, case.edits)
        expected = vm.resume(case.text, case.at, case.state)
        assert (edited.states, edited.outputs, edited.is_true) == (
            expected.states,
            expected.outputs,
            expected.is_true,
        )


def test_editing_nothing_is_running() -> None:
    for text in programs.stream(3, 50):
        result = vm.run(text)
        for at in (-1, min(4, len(text.partition(vm.END)[0]) - 1)):
            edited = oracle.edit(text, at, {})
            assert (edited.states, edited.outputs) == (result.states, result.outputs)


# --- arrays of programs ----------------------------------------------------------------------------------------------


@relaxed
@given(st.lists(programs.programs, min_size=1, max_size=2), seeds)
def test_the_compiled_oracle_agrees(texts: list[str], seed: int) -> None:
    r = Random(seed)
    assert (
        oracle_agreement.disagreement([case for text in texts for case in oracle_agreement.cases(r, text)], 1) is None
    )


@pytest.mark.slow
def test_the_compiled_oracle_agrees_on_many_and_they_cover_the_machine() -> None:
    r = Random(5)
    texts = programs.stream(5, 1_500) + [programs.exhausting(r) for _ in range(60)]
    cases = [case for text in texts for case in oracle_agreement.cases(r, text)]
    assert oracle_agreement.disagreement(cases, 5) is None
    seen: Counter[str] = Counter()
    for case in cases:
        edits = case.edits.values()
        rest = case.text.partition(vm.END)[0][case.at + 1 :]
        seen["NAN"] += any(value is vm.NAN for value in edits)
        seen["sequence"] += any(isinstance(value, vm.Seq) and len(value) > 0 for value in edits)
        seen["longest sequence"] += any(isinstance(value, vm.Seq) and len(value) == vm.MAX_LENGTH for value in edits)
        seen["tag"] += any(isinstance(value, vm.Int) and value.tag > 0 for value in edits)
        seen["register"] += any(place.startswith("reg") for place in case.edits)
        seen["deep entry"] += any(
            place.startswith("stack") and place not in ("stack.0", "stack.1") for place in case.edits
        )
        seen["several places"] += len(case.edits) > 1
        seen["before the first token"] += case.at == -1
        seen["after the last"] += not rest
        seen["call behind"] += any(token in "fghFGHMW" for token in rest)
        seen["definition behind"] += vm.OPEN in rest
        seen["definition before"] += vm.CLOSE in case.text[: case.at + 1]
        seen["out of fuel before"] += case.state.fuel == 0
        seen["out of fuel behind"] += case.state.fuel > 0 and case.cut < 0 and case.last().fuel == 0
        seen["frozen within a definition"] += case.cut >= 0 and oracle._opening(case.text[: case.cut]) >= 0
        seen["end true"] += case.verdict()
        seen["verdict changed"] += case.cut < 0 and case.verdict() != vm.verdict(case.text)
    names = ["NAN", "sequence", "longest sequence", "tag", "register", "deep entry", "several places"]
    names += ["before the first token", "after the last", "call behind", "definition behind", "definition before"]
    names += ["out of fuel before", "out of fuel behind", "frozen within a definition", "end true", "verdict changed"]
    assert {name: seen[name] for name in names if seen[name] < 30} == {}


def test_planted_differences_are_found() -> None:
    for text, at, place, wrong in (("12+3=.", 1, "stack.0", 3), ("3A;a.", 1, "reg.a", 4), ("3rA;", 2, "reg.a", 1)):
        state = vm.run(text).states[at]
        right = oracle.edit(text, at, {place: 2}).states[at]
        for cut in (-1, at + 1):
            case = oracle_agreement.Case(text, at, {place: vm.Int(2)}, right, cut)
            assert oracle_agreement.disagreement([case], 1) is None
        planted = state.with_register("a", wrong) if place == "reg.a" else state.with_stack([*state.stack[:-1], wrong])
        case = oracle_agreement.Case(text, at, {place: vm.Int(2)}, planted)
        message = oracle_agreement.disagreement([case], 1)
        assert message is not None
        assert repr(text) in message


def test_columns_of_integers_are_mappings() -> None:
    array = tokens.encode(["3A4Bab+7=."] * 50)
    rng = np.random.default_rng(0)
    columns = {"reg.a": rng.integers(-9, 9, 50), "reg.b": rng.integers(-9, 9, 50)}
    mappings = [{"reg.a": a, "reg.b": b} for a, b in zip(columns["reg.a"], columns["reg.b"], strict=True)]
    expected = columns["reg.a"] + columns["reg.b"] == 7
    assert expected.any()
    for edits in (columns, mappings, oracle.Edits.of(columns), oracle.Edits.of(mappings)):
        assert oracle.verdicts(array, 3, edits).tolist() == expected.tolist()
    assert repr(oracle.Edits.of(columns)) == "Edits(of 50 programs, 100 places)"
    for mine, theirs in zip(oracle.Edits.of(columns).arrays, oracle.Edits.of(mappings).arrays, strict=True):
        assert np.array_equal(mine, theirs)


def test_editing_nothing_is_the_kernel() -> None:
    array = tokens.encode(programs.stream(6, 600))
    mine, theirs = oracle.traces(array, 0, {}, contents=True), kernel.traces(array, contents=True)
    assert np.array_equal(mine.all_true, theirs.all_true)
    assert np.array_equal(mine.stack.elements, theirs.stack.elements)
    assert np.array_equal(oracle.verdicts(array, -1, {}), kernel.verdicts(array))


def test_threads_and_other_machines() -> None:
    r = Random(8)
    cases = [case for text in programs.stream(8, 80) for case in oracle_agreement.cases(r, text) if case.cut < 0]
    array, at, edits = oracle_agreement._arrays(cases)
    assert np.array_equal(oracle.verdicts(array, at, edits, threads=1), oracle.verdicts(array, at, edits, threads=3))
    swapped = vm.Semantics({"+": "-", "-": "+", "<": ">", ">": "<"})
    expected = [oracle.edit(case.text, case.at, case.edits, swapped).is_true for case in cases]
    assert oracle.verdicts(array, at, edits, swapped).tolist() == expected
    traces = oracle.traces(array, at, edits, swapped, entries=0)
    assert traces.all_true[:, -1].tolist() == expected


def test_no_programs() -> None:
    none = np.zeros((0, 4), np.uint8)
    assert oracle.verdicts(none, [], []).shape == (0,)
    assert oracle.traces(none, [], []).depth.shape == (0, 4)
    assert oracle.continuation_verdicts(none, []).shape == (0,)
    assert oracle.true_sets(none, []).shape == (0, 65)


@pytest.mark.slow
def test_the_agreement_command(capsys) -> None:
    assert oracle_agreement.main(["1200", "--processes", "1", "--seed", "3"]) == 0
    assert "1,200 edits of 200 programs agreed (seed 3)" in capsys.readouterr().out
    assert oracle_agreement.main(["300", "--processes", "1", "--each", "1"]) == 0
    assert "300 edits of 300 programs agreed (seed 0)" in capsys.readouterr().out


def test_the_agreement_command_refuses_nonsense(capsys) -> None:
    with pytest.raises(SystemExit):
        oracle_agreement.main(["0"])
    assert "must be 1 or more" in capsys.readouterr().err


# --- frozen prefixes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prefix", "continuation", "whole", "frozen"),
    [
        ("34+", "7=.", True, True),
        ("3f", "4={1+}.", True, False),  # the prefix called f before it was defined: NAN
        ("3f;3", "f4={1+}.", True, True),  # what is called behind the cut is defined behind it, too
        ("{1+}3f", "4=.", True, True),
        ("{1+}3f4=", "{2+}", True, True),
        ("{1+}3g", ";4{2+}g6=.", True, True),  # the continuation's definition is bound after the prefix's, as g
        ("{1+}3g", "5={2+}.", True, False),
        ("3f{1", "+}4=.", True, False),  # frozen, f was `1`, and left 1
        ("3f{1", "+}1=.", False, True),
        ("3f{0", "!}.", True, False),
        ("3f{1", "!}.", False, True),
        ("{1", "+}3f4=.", True, True),  # the continuation goes on writing the definition
        ("", "34+7=.", True, True),
        ("34+7=.", "", True, True),
    ],
)
def test_frozen_prefixes(prefix: str, continuation: str, whole: bool, frozen: bool) -> None:
    text = prefix + continuation
    cut = len(prefix.rstrip("."))
    assert vm.verdict(text) is whole
    assert oracle.continuation_verdicts(tokens.encode([text]), cut).tolist() == [frozen]
    state = vm.run(text[:cut]).states[-1] if cut else vm.State()
    assert vm.resume(text, cut - 1, state).is_true is frozen
    written = continuation.rstrip(".")
    if len(written) <= 3:
        assert (written in oracle.true_set(text[:cut], max_tokens=len(written))) is whole
        assert (written in oracle.true_set(text[:cut], {}, max_tokens=len(written))) is frozen


def test_an_edit_before_the_cut_runs_through_the_prefix() -> None:
    array = tokens.encode(["3A4Bab+7=."] * 3)
    assert oracle.continuation_verdicts(array, 7, 1, [{"reg.a": 3}, {"reg.a": 4}, {}]).tolist() == [True, False, True]
    assert oracle.continuation_verdicts(
        array, [2, 7, 8], [1, 6, 7], [{"reg.a": 4}, {"stack.0": 7}, {"stack.1": 8}]
    ).tolist() == [
        False,
        True,
        False,
    ]


# --- true continuations ----------------------------------------------------------------------------------------------


def brute_force(prefix: str, edits: dict | None, max_tokens: int, semantics: vm.Semantics | None = None) -> set[str]:
    """`oracle.true_set` by its definition."""
    if edits is not None:
        state = oracle.edit(prefix, len(prefix) - 1, edits, semantics).states[-1] if prefix else vm.State()
    true = set()
    for n_tokens in range(max_tokens + 1):
        for continuation in map("".join, itertools.product(ALPHABET, repeat=n_tokens)):
            text = prefix + continuation + vm.END
            if edits is None:
                is_true = vm.verdict(text, semantics)
            else:
                is_true = vm.resume(text, len(prefix) - 1, state, semantics).is_true
            if is_true:
                true.add(continuation)
    return true


def prefixes(seed: int, n: int, longest: int = 40) -> list[str]:
    """Random programs cut anywhere."""
    r = Random(seed)
    drawn: list[str] = []
    while len(drawn) < n:
        text = programs.draw(r).partition(vm.END)[0]
        text = text[: r.randrange(len(text) + 1)]
        if len(text) <= longest:
            drawn.append(text)
    return drawn


def random_edits(r: Random, prefix: str) -> dict[str, vm.Value]:
    """Edits of the state after the prefix; none where it ends within a definition."""
    at = len(prefix) - 1
    if at not in oracle_agreement.positions(prefix):
        return {}
    return oracle_agreement.draw_edit(r, at, vm.run(prefix).states[at] if prefix else vm.State())[0]


@settings(deadline=None, max_examples=examples(40))
@given(seeds)
def test_true_sets_of_one_token(seed: int) -> None:
    prefix = prefixes(seed, 1)[0]
    for edits in (None, {}, random_edits(Random(seed), prefix)):
        if prefix or not edits:
            assert oracle.true_set(prefix, edits) == brute_force(prefix, edits, 1)


def test_true_sets_of_two_tokens() -> None:
    r = Random(2)
    for prefix in ["3f", "5f{", "{1+}3F", *prefixes(2, 1, longest=20)]:
        for edits in (None, random_edits(r, prefix) if prefix else {}):
            assert oracle.true_set(prefix, edits, 2) == brute_force(prefix, edits, 2)


@pytest.mark.slow
def test_many_true_sets_of_two_tokens() -> None:
    r = Random(3)
    for prefix in prefixes(3, 15, longest=30):
        for edits in (None, {}, random_edits(r, prefix) if prefix else {}):
            assert oracle.true_set(prefix, edits, 2) == brute_force(prefix, edits, 2)


def by_verdicts(prefix: str, edits: dict | None, max_tokens: int) -> np.ndarray:
    """The true continuations of exactly `max_tokens` tokens, all of them judged as programs: uint8 [n, max_tokens]."""
    others = np.delete(np.arange(len(vm.VOCAB), dtype=np.uint8), tokens.PAD)
    true = []
    for first in others:
        columns = np.meshgrid([first], *[others] * (max_tokens - 1), indexing="ij")
        continuations = np.stack([column.ravel() for column in columns], 1)
        n = len(continuations)
        array = np.hstack([np.broadcast_to(tokens.encode([prefix]), (n, len(prefix))), continuations])
        if edits is None:
            is_true = kernel.verdicts(array)
        else:
            is_true = oracle.continuation_verdicts(
                array, len(prefix), None, {k: np.full(n, v) for k, v in edits.items()}
            )
        true.append(continuations[is_true])
    return np.concatenate(true)


def agrees_with_verdicts(prefix: str, edits: dict | None, max_tokens: int) -> bool:
    rows = oracle.true_continuations(prefix, edits, max_tokens)
    return np.array_equal(rows[(rows != tokens.PAD).all(1)], by_verdicts(prefix, edits, max_tokens))


@pytest.mark.parametrize(
    ("prefix", "edits"),
    [
        ("5f", None),  # a continuation may define what was called
        ("1g2f{", None),  # and finish what is open
        ("{1+}g", {}),
        ("12A0a/0", None),  # a NAN with a false entry above
        ("1000", {"stack.3": 0, "reg.b": 4}),
        ("{;1f;1f;1f}5", None),  # a call uses up the fuel
    ],
)
def test_true_continuations_of_three_tokens(prefix: str, edits: dict | None) -> None:
    assert agrees_with_verdicts(prefix, edits, 3)


@pytest.mark.slow
def test_many_true_continuations_of_three_tokens() -> None:
    for prefix in prefixes(4, 12):
        assert agrees_with_verdicts(prefix, None, 3)
        assert agrees_with_verdicts(prefix, {}, 3)


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["{1>}(1,4,Wa0", "1fa0"])
def test_true_continuations_of_four_tokens(prefix: str) -> None:
    assert agrees_with_verdicts(prefix, None, 4)


def test_true_continuations_are_rows_of_ids() -> None:
    rows = oracle.true_continuations("34+7", max_tokens=2)
    assert (rows.dtype, rows.shape[1]) == (np.uint8, 2)
    assert rows.tolist() == sorted(rows.tolist())
    texts = ["".join(vm.VOCAB[token] for token in row).rstrip(vm.END) for row in rows]
    assert len(set(texts)) == len(texts)
    assert set(texts) == oracle.true_set("34+7", max_tokens=2)
    assert "=" in texts
    assert "" in texts
    assert np.array_equal(rows, oracle.true_continuations("34+7", max_tokens=2, threads=1))


def test_the_empty_continuation() -> None:
    assert oracle.true_set("34+7=", max_tokens=0) == {""}
    assert oracle.true_set("34+8=", max_tokens=0) == set()
    assert oracle.true_set("34+8=", {"stack.0": 5}, max_tokens=0) == {""}
    assert oracle.true_set("", max_tokens=1) == set("123456789(r") - {"(", "r"}


def test_what_cannot_become_true_is_not_searched() -> None:
    """A false entry under 11 true ones takes six tokens; a search of five through them all would take minutes."""
    assert oracle.true_continuations("0" + "1" * 11, max_tokens=5).shape == (0, 5)
    assert {";1", "A7"} <= oracle.true_set("a", max_tokens=2)
    assert oracle.true_set("1a111", max_tokens=2) == set()  # a NAN under three entries takes three tokens
    assert {"?+;", ";+;"} & oracle.true_set("1a111", max_tokens=3) == {"?+;"}


def test_true_sets_are_true_sets_of_one_token() -> None:
    texts = prefixes(7, 300)
    array, lengths = tokens.encode(texts), [len(text) for text in texts]
    r = Random(7)
    edits = [random_edits(r, text) for text in texts]
    whole, frozen = oracle.true_sets(array, lengths), oracle.true_sets(array, lengths, edits)
    assert (whole.dtype, whole.shape) == (np.bool_, (300, 65))
    for i, text in enumerate(texts):
        for row, mapping in ((whole[i], None), (frozen[i], edits[i])):
            expected = oracle.true_set(text, mapping)
            assert {"" if k == tokens.PAD else vm.VOCAB[k] for k in np.flatnonzero(row)} == expected
    assert np.array_equal(oracle.true_sets(array, lengths, {}), oracle.true_sets(array, lengths, [{}] * 300))


def test_true_sets_of_another_machine() -> None:
    swapped = vm.Semantics({"f": "g", "g": "f", "+": "-", "-": "+", "A": "B", "B": "A"})
    for prefix in ["3f", "{1+}2g", "34+", "5{1f", *prefixes(9, 10)]:
        for edits in (None, {}):
            assert oracle.true_set(prefix, edits, 1, swapped) == brute_force(prefix, edits, 1, swapped)


# --- what is refused -------------------------------------------------------------------------------------------------

ARRAY = tokens.encode(["{1+}3f4=.", "34+7=."])
BAD_EDITS = [
    (
        {"reg.e": 1},
        ValueError,
        r"'reg.e' is no place of the machine's state; expected reg.a to reg.d, or stack.K \(0: the top\)",
    ),
    ({"stack.-1": 1}, ValueError, r"'stack.-1' is no place of the machine's state; expected reg.a"),
    ({"stack.top": 1}, ValueError, r"'stack.top' is no place"),
    ({"a": 1}, ValueError, r"'a' is no place"),
    ({3: 1}, ValueError, r"3 is no place"),
    (
        {"reg.a": 2**31},
        ValueError,
        r"the value for reg.a does not fit: Int value 2147483648 is outside \[-2147483647, 2147483647\]",
    ),
    ({"reg.a": [1] * 33}, ValueError, r"the value for reg.a does not fit: a Seq holds at most 32 Ints, not 33"),
    (
        {"reg.a": 1.5},
        TypeError,
        r"the value for reg.a is 1.5; expected an int, an Int, a Seq \(or a list of integers\) or NAN",
    ),
    ({"reg.a": "seven"}, TypeError, r"the value for reg.a is 'seven'; expected an int"),
    (
        {"stack.1": 1},
        ValueError,
        r"there is no stack.1 after token 4: the stack has 1 entry; the lowest entry is stack.0",
    ),
]


@pytest.mark.parametrize(("edits", "error", "message"), BAD_EDITS)
def test_edits_that_are_refused(edits: dict, error: type[Exception], message: str) -> None:
    calls = (
        lambda: oracle.edit("{1+}3f4=.", 4, edits),
        lambda: oracle.verdicts(ARRAY[:1], 4, [edits]),
        lambda: oracle.traces(ARRAY[:1], 4, [edits]),
        lambda: oracle.continuation_verdicts(ARRAY[:1], 6, 4, [edits]),
        lambda: oracle.true_set("{1+}3", edits),
        lambda: oracle.true_sets(ARRAY[:1], 5, [edits]),
    )
    for call in calls:
        with pytest.raises(error, match=message) as raised:
            call()
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: oracle.edit("34+", 3, {}),
            r"the edit is after token 3; expected -1 \(before the first\) to 2 \(the last of the text\)",
        ),
        (lambda: oracle.edit("34.+", 3, {}), r"the edit is after token 3; expected -1 \(before the first\) to 2"),
        (lambda: oracle.edit("34+", -2, {}), r"the edit is after token -2; expected -1"),
        (lambda: oracle.edit("3 4", 0, {}), r"' ' at position 1 is not an instruction"),
        (lambda: oracle.edit("34", -1, {"stack.0": 1}), r"there is no stack.0 after token -1: the stack is empty$"),
        (
            lambda: oracle.edit("3{1+}f", 3, {"reg.a": 1}),
            r"the state after token 3 cannot be edited: it lies inside the definition that opens at token 1, which is "
            r"passed over; edit before its { or after its }",
        ),
        (lambda: oracle.verdicts(ARRAY, 0, [{"reg.a": 1}] * 2), r"program 0: the state after token 0 cannot be edited"),
        (
            lambda: oracle.traces(ARRAY, 1, [{}, {"stack.2": 1}]),
            r"program 1: there is no stack.2 after token 1: the stack has 2",
        ),
        (
            lambda: oracle.verdicts(ARRAY, [8, 7], [{}, {}]),
            r"program 1: the edit is after token 7; expected -1 .* to 5 ",
        ),
        (
            lambda: oracle.verdicts(ARRAY, [1, 2, 3], [{}, {}]),
            r"at is int64 \[3\]; expected an integer or 2 of them, one a program",
        ),
        (lambda: oracle.verdicts(ARRAY, 1.0, [{}, {}]), r"at is float64 \[\]; expected an integer"),
        (
            lambda: oracle.verdicts(ARRAY, 1, [{}]),
            r"there are edits of 1 programs for 2; expected one mapping a program",
        ),
        (lambda: oracle.verdicts(["34+"], 1, [{}]), r"programs must be a uint8 array"),
        (
            lambda: oracle.verdicts(ARRAY, 1, {"reg.a": [1, 2**31]}),
            r"the value for reg.a does not fit: Int value 2147483648",
        ),
        (
            lambda: oracle.verdicts(ARRAY, 1, {"reg.a": [1, 2], "reg.b": [1]}),
            r"the places have 1 and 2 values; expected one a program",
        ),
        (lambda: oracle.traces(ARRAY, 1, {}, entries=-1), r"entries is -1"),
        (
            lambda: oracle.continuation_verdicts(ARRAY, [3, 6]),
            r"program 1 is cut after 6 tokens; expected 0 to 5, the tokens before its `.`",
        ),
        (lambda: oracle.continuation_verdicts(ARRAY, -1), r"program 0 is cut after -1 tokens"),
        (
            lambda: oracle.continuation_verdicts(ARRAY, 5, [4, 5]),
            r"program 1: the edit is after token 5; expected -1 \(before the first\) to 4 \(the last of the prefix\)",
        ),
        (
            lambda: oracle.continuation_verdicts(ARRAY, 2, None, [{"reg.a": 1}, {}]),
            r"program 0: the state after token 1 cannot be edited",
        ),
        (lambda: oracle.true_set("3{1", {"reg.a": 1}), r"the prefix: the state after token 2 cannot be edited"),
        (
            lambda: oracle.true_set("", {"stack.0": 1}),
            r"the prefix: there is no stack.0 after token -1: the stack is empty",
        ),
        (lambda: oracle.true_set("34 "), r"' ' at position 2 is not an instruction"),
        (
            lambda: oracle.true_set(".34+"),
            r"prefix 0 ends at its token 0, a `.`: nothing can follow; give the tokens before it \(and no leading",
        ),
        (
            lambda: oracle.true_set("34", max_tokens=6),
            r"max_tokens is 6; expected 0 to 5: each token more makes 64 times as many",
        ),
        (lambda: oracle.true_set("34", max_tokens=-1), r"max_tokens is -1; expected 0 to 5"),
        (lambda: oracle.true_sets(ARRAY, [3, 10]), r"prefix 1 has 10 tokens; expected 0 to 9, the array's width"),
        (lambda: oracle.true_sets(ARRAY, [3, 7]), r"prefix 1 ends at its token 5, a `.`"),
        (lambda: oracle.true_sets(ARRAY, [5, 2], [{}, {"stack.2": 1}]), r"prefix 1: there is no stack.2 after token 1"),
    ],
)
def test_what_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        call()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: oracle.verdicts(ARRAY, 1, [3, 4]),
            r"the edits of program 0 are 3; expected a mapping from places to values",
        ),
        (
            lambda: oracle.verdicts(ARRAY, 1, {"reg.a": [1.5, 2]}),
            r"the values for reg.a are float64 \[2\]; expected integers \[n\]",
        ),
        (lambda: oracle.true_set("34", max_tokens=1.5), "cannot be interpreted as an integer"),
    ],
)
def test_what_is_of_no_type(call, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        call()
