"""The machine in JavaScript is the machine: states, edits, true sets, provenance, on random programs of every kind."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from cadmus.machine import oracle, tokens, vm
from cadmus.states.provenance_plain import provenance_of
from tests import programs
from tests.analyses.explorer.javascript import ask, needs_node
from tests.fuzzing import examples

pytestmark = needs_node
CHUNK = 5000


def _state(state: vm.State) -> str:
    stack = " ".join(map(str, state.stack))
    return f"{stack} | {' '.join(map(str, state.registers.values()))} | {state.fuel}"


def _check_states(seed: int, n: int) -> int:
    texts = programs.stream(seed, n)
    answers = ask("states", [{"text": text} for text in texts])
    for text, answer in zip(texts, answers, strict=True):
        expected = "\n".join(map(_state, vm.run(text).states))
        assert answer == expected, text
    return len(texts)


def _editable(text: str, r: Random) -> tuple[int, str, vm.Value] | None:
    """A token after which a place of the state can be edited, the place and a value."""
    main_text, _ = vm.parse(text)
    if not main_text:
        return None
    at = r.choice(main_text)
    state = vm.run(text).states[at]
    places = [f"reg.{name}" for name in vm.REGISTERS] + [f"stack.{k}" for k in range(len(state.stack))]
    value = r.choice([vm.Int(r.randint(-99, 99)), vm.Int(3, 4), vm.Seq((vm.Int(1), vm.Int(0, 2))), vm.NAN])
    return at, r.choice(places), value


def test_states_are_those_of_the_machine() -> None:
    assert _check_states(1, examples(500)) == examples(500)


@pytest.mark.slow
@pytest.mark.hypothesis  # `make fuzz` checks ten times as many
def test_states_are_those_of_the_machine_on_many_programs() -> None:
    chunks = examples(4)
    assert sum(_check_states(100 + seed, CHUNK) for seed in range(chunks)) == chunks * CHUNK


def test_what_follows_from_an_edit_is_what_the_oracle_says() -> None:
    r = Random(2)
    cases = [(text, edit) for text in programs.stream(2, examples(200)) if (edit := _editable(text, r))]
    asked = [
        {"text": text, "edits": [{"at": at, "place": place, "value": str(value)}]} for text, (at, place, value) in cases
    ]
    for (text, (at, place, value)), answer in zip(cases, ask("states", asked), strict=True):
        expected = "\n".join(map(_state, oracle.edit(text, at, {place: value}).states))
        assert answer == expected, (text, at, place, value)


def test_true_sets_are_the_oracles() -> None:
    r = Random(3)
    prefixes = [text[: r.randint(0, len(text))].replace(".", "")[:40] for text in programs.stream(3, examples(80))]
    frozen = [r.random() < 0.5 for _ in prefixes]
    edits: list[list[dict[str, object]] | None] = []
    for prefix, is_frozen in zip(prefixes, frozen, strict=True):
        state = vm.run(prefix).states[-1] if prefix else vm.State()
        can_edit = is_frozen and prefix and prefix[-1] not in "{}" and len(prefix) - 1 in vm.parse(prefix)[0]
        places = ["reg.a", *(f"stack.{k}" for k in range(len(state.stack)))]
        edit = {"at": len(prefix) - 1, "place": r.choice(places), "value": str(r.randint(-3, 3))}
        edits.append(([edit] if can_edit else []) if is_frozen else None)
    asked = [{"text": prefix, "edits": edit} for prefix, edit in zip(prefixes, edits, strict=True)]
    for prefix, edit, answer in zip(prefixes, edits, ask("trueSets", asked), strict=True):
        encoded, lengths = tokens.encode([prefix], max(1, len(prefix))), [len(prefix)]
        arguments = None if edit is None else [{str(e["place"]): int(str(e["value"])) for e in edit}]
        expected = oracle.true_sets(encoded, lengths, arguments)[0]
        assert answer == expected.astype(int).tolist(), (prefix, edit)


def test_continuations_behind_an_edit_are_judged_as_the_oracle_judges() -> None:
    r = Random(4)
    cases = []
    for text in programs.stream(4, examples(200)):
        body = text.partition(".")[0]
        cut = r.randint(0, len(body))
        edit = _editable(body[:cut], r)
        if edit is not None and isinstance(edit[2], vm.Int):
            cases.append((body, cut, edit))
    asked = [
        {"text": text, "cut": cut, "edits": [{"at": at, "place": place, "value": str(value)}]}
        for text, cut, (at, place, value) in cases
    ]
    answers = ask("continuations", asked)
    for (text, cut, (at, place, value)), answer in zip(cases, answers, strict=True):
        expected = oracle.continuation_verdicts(tokens.encode([text]), [cut], [at], [{place: value}])[0]
        assert answer == bool(expected), (text, cut, at, place, value)


def test_provenance_is_that_of_python() -> None:
    texts = programs.stream(5, examples(200))
    for text, answer in zip(texts, ask("provenance", texts), strict=True):
        graph = provenance_of(text)
        for row, value in zip(graph.values, answer["values"], strict=True):
            kind = {"seq": "(", "nan": "NAN"}.get(row.kind, str(row.v))
            assert value.startswith(f"{row.arose} {row.at} {kind}"), text
        rows = [f"{o.value} {o.role} {o.token} {o.edit_at} {o.place}" for o in graph.occurrences]
        assert answer["occurrences"] == rows, text
        edges = [f"{e.value} {e.element} {e.query} {e.key} {e.kind} {e.query_at} {e.key_at}" for e in graph.edges]
        assert answer["edges"] == edges, text


def test_no_program_is_too_odd() -> None:
    odd = ["", ".", "}", "{", "{{}", "abcd", ".34+7=", "'" * 40, "{f}9f", "{f1}9f", "9A{A9f}f" * 4, "((((,,,,"]
    answers = ask("states", [{"text": text} for text in odd])
    assert answers == ["\n".join(map(_state, vm.run(text).states)) for text in odd]
    assert np.array(ask("trueSets", [{"text": ""}])).sum() == oracle.true_sets(tokens.encode([""], 1), [0]).sum()
