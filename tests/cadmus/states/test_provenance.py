"""Provenance: programs worked out by hand, the compiled against the plain, and what the rows promise of edits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cadmus.machine import oracle, tokens, vm
from cadmus.programs.families import FAMILIES
from cadmus.states.provenance import EDGE_KINDS, ROLES, Provenance, place_name, provenance
from cadmus.states.provenance_plain import provenance_of
from cadmus.states.provenance_rows import EdgeRow, Graph, OccurrenceRow
from tests import programs
from tests.cases import CASES, PAPER
from tests.fuzzing import examples

ROOT = Path(__file__).parents[3]
relaxed = settings(deadline=None, max_examples=examples(60))
Rows = Sequence[tuple]


def graphs(texts: list[str], cuts: np.ndarray | None = None) -> list[Graph]:
    """The compiled provenance of each text, in the rows of the plain one."""
    result = provenance(tokens.encode(texts, max(map(len, texts)) + 1), cuts)
    tables: list[list[list[tuple]]] = []
    for table in fields(Provenance):
        split: list[list[tuple]] = [[] for _ in texts]
        frame = getattr(result, table.name).frame()
        for program, *row in zip(*(frame[name].tolist() for name in frame), strict=True):
            split[program].append(tuple(row))
        tables.append(split)
    return [Graph(*rows) for rows in zip(*tables, strict=True)]


def graph(text: str, cut: int | None = None) -> Graph:
    return graphs([text], None if cut is None else np.array([cut]))[0]


def disagreement(texts: list[str], cuts: np.ndarray | None = None) -> str | None:
    """The first text whose compiled provenance is not the plain one, with the table; None where all agree."""
    for k, compiled_graph in enumerate(graphs(texts, cuts)):
        cut = None if cuts is None else int(cuts[k])
        for name, plain, compiled in zip(Graph._fields, provenance_of(texts[k], cut), compiled_graph, strict=True):
            if list(map(tuple, plain)) != compiled:
                return f"{name} of {texts[k]!r} before {cut}:\n{plain}\n{compiled}"
    return None


def some_cuts(texts: list[str], r: Random) -> np.ndarray:
    return np.array([r.randrange(len(text.partition(".")[0]) + 1) for text in texts])


# --- by hand ---------------------------------------------------------------------------------------------------------
# (value, role, token, edit_at, place, version, distance), values numbered as they are made


def test_the_roles_of_registers() -> None:
    three, four, total, seven, verdict = range(5)
    assert graph("3A4Bab+7=.").occurrences == [
        (three, "arose", 0, 0, "stack.0", -1, -1),
        (three, "stored", 1, 1, "reg.a", 0, 0),
        (four, "arose", 2, 2, "stack.0", -1, -1),
        (three, "between", 2, 2, "reg.a", 0, 1),
        (four, "stored", 3, 3, "reg.b", 0, 0),
        (three, "between", 3, 3, "reg.a", 0, 2),
        (three, "loaded", 4, 4, "stack.0", 0, 3),
        (four, "between", 4, 4, "reg.b", 0, 1),
        (four, "loaded", 5, 5, "stack.0", 0, 2),
        (three, "consumed", 6, 5, "stack.1", -1, -1),
        (four, "consumed", 6, 5, "stack.0", -1, -1),
        (total, "arose", 6, 6, "stack.0", -1, -1),
        (seven, "arose", 7, 7, "stack.0", -1, -1),
        (total, "consumed", 8, 7, "stack.1", -1, -1),
        (seven, "consumed", 8, 7, "stack.0", -1, -1),
        (verdict, "arose", 8, 8, "stack.0", -1, -1),
        (verdict, "decision", 8, 8, "stack.0", -1, -1),
        (three, "decision", 8, 8, "reg.a", 0, 7),
        (four, "decision", 8, 8, "reg.b", 0, 5),
    ]


def of_roles(text: str, *roles: str) -> Rows:
    return [row for row in graph(text).occurrences if row[1] in roles]


def test_a_dead_store_is_overwritten() -> None:
    assert of_roles("5A7Aa5=.", "overwritten", "loaded", "between", "stored") == [
        (0, "stored", 1, 1, "reg.a", 0, 0),
        (1, "stored", 3, 3, "reg.a", 1, 0),
        (0, "overwritten", 3, 2, "reg.a", 0, 2),
        (1, "loaded", 4, 4, "stack.0", 1, 1),
    ]
    assert of_roles("5A.", "overwritten", "between", "decision") == [(0, "decision", 1, 1, "reg.a", 0, 0)]
    assert graph("5Aa7A.").versions == [("a", 0, 0, 1, 1, 4, 1, 2), ("a", 1, 1, 4, 4, -1, 0, -1)]
    assert of_roles("5Aa7A.", "overwritten") == [(0, "overwritten", 4, 3, "reg.a", 0, 3)]


def test_several_loads_are_several_rows_and_none_lies_between_at_a_load() -> None:
    assert of_roles("5Aa1a.", "loaded", "between") == [
        (0, "loaded", 2, 2, "stack.0", 0, 1),
        (0, "between", 3, 3, "reg.a", 0, 2),
        (0, "loaded", 4, 4, "stack.0", 0, 3),
    ]


def of_kinds(rows: Rows, *kinds: str) -> Rows:
    """(kind, value, element, query, key) of the edges of these kinds."""
    return [(kind, value, element, query, key) for value, element, query, key, kind, *_ in rows if kind in kinds]


def test_shuffles_keep_values_and_put_them_elsewhere() -> None:
    one, two, three, difference = range(4)
    rotated = graph("123@-+.")  # 2 3 1, so 3 - 1, then 2 + 2
    assert of_roles("123@-+.", "consumed") == [
        (three, "consumed", 4, 3, "stack.1", -1, -1),
        (one, "consumed", 4, 3, "stack.0", -1, -1),
        (two, "consumed", 5, 4, "stack.1", -1, -1),
        (difference, "consumed", 5, 4, "stack.0", -1, -1),
    ]
    assert of_kinds(rotated.edges, "shuffle", "operand", "operand_origin") == [
        ("shuffle", one, -1, 3, 0),
        ("shuffle", two, -1, 3, 1),
        ("shuffle", three, -1, 3, 2),
        ("operand", three, -1, 4, 3),
        ("operand_origin", three, -1, 4, 2),
        ("operand", one, -1, 4, 3),
        ("operand_origin", one, -1, 4, 0),
        ("operand", two, -1, 5, 3),
        ("operand_origin", two, -1, 5, 1),
        ("operand", difference, -1, 5, 4),
        ("operand_origin", difference, -1, 5, 4),
    ]
    assert of_kinds(graph("7:*.").edges, "operand") == [("operand", 0, -1, 2, 0), ("operand", 0, -1, 2, 1)]
    assert [row[4] for row in of_roles("7:*.", "consumed")] == ["stack.1", "stack.0"]
    assert of_kinds(graph("78o-.").edges, "operand") == [("operand", 1, -1, 3, 1), ("operand", 0, -1, 3, 2)]
    assert of_kinds(graph("1234?+.").edges, "operand")[-2:] == [("operand", 0, -1, 5, 0), ("operand", 2, -1, 5, 4)]


def test_what_a_body_makes_arises_at_the_call() -> None:
    text = "{a1+}3A5f."  # positions 0 to 8; the body is a 1 +
    three, five, one, four = range(4)
    rows = graph(text)
    assert rows.values == [
        (three, 5, 5, True, "int", 3, 0),
        (five, 7, 7, True, "int", 5, 0),
        (one, 8, 2, True, "int", 1, 0),
        (four, 8, 3, False, "int", 4, 0),
    ]
    assert of_roles(text, "loaded") == []  # the copy is gone when the call ends
    assert of_roles(text, "between", "consumed") == [
        (three, "between", 7, 7, "reg.a", 0, 1),
        (five, "consumed", 8, 7, "stack.0", -1, -1),
    ]
    assert (four, "arose", 8, 8, "stack.0", -1, -1) in rows.occurrences
    assert rows.body_edges == [
        (three, -1, 8, 6, "load_store", 1, 1, 6),
        (three, -1, 8, 5, "load_origin", 1, 1, 5),
        (three, -1, 8, 8, "operand", 1, 3, 1),
        (three, -1, 8, 5, "operand_origin", 1, 3, 5),
        (one, -1, 8, 8, "operand", 1, 3, 2),
        (one, -1, 8, 8, "operand_origin", 1, 3, 2),
    ]


def test_what_a_body_merely_returns_is_what_it_was() -> None:
    assert of_roles("{a}3A5f.", "loaded") == [(0, "loaded", 6, 6, "stack.0", 0, 2)]
    assert len(graph("{}3f.").values) == 1  # the identity
    assert len(graph("{7;}3f.").values) == 2
    assert of_kinds(graph("{}3f1+.").edges, "operand") == [
        ("operand", 0, -1, 3, 2),
        ("operand", 0, -1, 5, 3),
        ("operand", 1, -1, 5, 4),
    ]
    assert len(graph("{0}05F.").values) == 2  # a call that is not made


def test_stores_in_bodies() -> None:
    text = "{7A}3A1fa+."  # the call is token 7
    three, seven = 0, 2
    assert of_roles(text, "stored", "overwritten", "loaded") == [
        (three, "stored", 5, 5, "reg.a", 0, 0),
        (seven, "stored", 7, 7, "reg.a", 1, 0),
        (three, "overwritten", 7, 6, "reg.a", 0, 2),
        (seven, "loaded", 8, 8, "stack.0", 1, 1),
    ]
    assert (seven, -1, 8, 7, "load_store", 0, 8, 2) in graph(text).edges
    assert of_roles("{aA}3A1f.", "overwritten") == []  # the call loads it before it overwrites it
    assert of_roles("{7A8A}1f.", "stored") == [(2, "stored", 7, 7, "reg.a", 1, 0)]  # the 7 is gone with the call


def test_no_edit_lies_in_a_definition() -> None:
    assert of_roles("3{1+}f.", "consumed", "decision") == [
        (0, "consumed", 5, 0, "stack.0", -1, -1),
        (2, "decision", 5, 5, "stack.0", -1, -1),
    ]
    assert of_roles("3{1+}.", "decision") == [(0, "decision", 4, 0, "stack.0", -1, -1)]


def test_elements_are_values() -> None:
    empty, four, first, five, second, index = range(6)
    rows = graph("(4,5,1I.")
    assert len(rows.values) == 6
    assert of_roles("(4,5,1I.", "loaded") == [(five, "loaded", 6, 6, "stack.0", -1, -1)]
    assert of_kinds(rows.edges, "operand_origin", "load_origin")[-5:] == [
        ("operand_origin", second, -1, 6, 4),
        ("operand_origin", four, 0, 6, 1),
        ("operand_origin", five, 1, 6, 3),
        ("operand_origin", index, -1, 6, 5),
        ("load_origin", five, -1, 6, 3),
    ]
    assert (empty, first) == (0, 2)


@pytest.mark.parametrize(
    ("text", "elements"),
    [  # which values the sequence on top holds at the end
        ("(4,5,R.", [3, 1]),
        ("(4,5,T.", [3]),
        ("(4,(5,Q.", [1, 4]),
        ("(5,4,54',O.", [3, 1, 7]),  # 5 and 5'4 are equal: stable
        ("{1>}(1,2,3,W.", [3, 5]),
        ("{}(4,5,M.", [1, 3]),
        ("{1+}(4,5,M.", [6, 8]),  # after 0 to 4: 1, the sum, 1, the sum
        ("3r.", [1, 2, 3]),
        ("(4,1+.", [4]),
        ("(4,2'.", [4]),
        ("(4,P.", [3]),
    ],
)
def test_which_elements_a_sequence_holds(text: str, elements: list[int]) -> None:
    edges = of_kinds(graph(text).edges, "decision_origin")
    assert [value for _, value, element, _, _ in edges if element >= 0] == elements
    assert [element for _, _, element, _, _ in edges] == list(range(-1, len(elements)))


def test_what_has_no_result_is_a_new_nan() -> None:
    assert [row[4] for row in graph("a+.").values] == ["nan", "nan"]
    assert of_roles("a+.", "consumed") == [(0, "consumed", 1, 0, "stack.0", -1, -1)]
    assert [row[1] for row in graph("1a\\.").values] == [0, 1, 2, 2]  # both outputs of the swap
    assert [row[1] for row in graph("Aa.").values] == [0]  # a store makes the NAN that it lacks; the load moves it
    assert graph("Aa.").edges[0] == (0, -1, 1, 0, "load_store", 0, 1, 0)
    assert graph("10/;.").occurrences[-1] == (2, "arose", 2, 2, "stack.0", -1, -1)  # a drop takes no operand


def test_fuel_that_runs_out_leaves_a_nan_and_ends_the_run() -> None:
    text = "{" + "1;" * 60 + "}" + "84*r" + "M" * 2 + "1a."
    assert vm.run(text).states[-1].fuel == 0
    rows = graph(text)
    *_, last = rows.values
    assert last[1:5] == (text.rindex("M"), last[2], False, "nan")
    assert [row[2] for row in rows.occurrences][-2:] == [text.rindex("M"), len(text) - 2]


def test_names_and_words() -> None:
    assert [place_name(code) for code in (0, 3, 4, 14)] == ["reg.a", "reg.d", "stack.0", "stack.10"]
    result = provenance(tokens.encode(["3A4Bab+7=."]))
    assert repr(result) == (
        "Provenance(Values(5 rows), Occurrences(19 rows), Edges(16 rows), Edges(0 rows), Versions(2 rows))"
    )
    frame = result.occurrences.frame()
    assert list(frame.columns) == ["program", *OccurrenceRow._fields]
    assert list(result.edges.frame().columns) == ["program", *EdgeRow._fields]
    assert set(frame.role) <= set(ROLES)
    assert set(result.edges.frame().kind) <= set(EDGE_KINDS)


def test_the_example_of_the_page_is_what_is_recorded() -> None:
    """Tables of docs/provenance.md, cell by cell; edges without the column `element`."""
    page = (ROOT / "docs" / "provenance.md").read_text(encoding="utf-8").partition("## An example")[2]
    text = page[page.index("[") + 1 : page.index("]")]
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    start = next(k for k, line in enumerate(lines) if "kind" in line)
    rows = graph(text)
    assert vm.verdict(text)
    assert lines[1:start] == [list(map(str, row)) for row in rows.occurrences]
    edges = [[value, kind, query, key, *rest] for value, _, query, key, kind, *rest in (*rows.edges, *rows.body_edges)]
    assert lines[start + 1 :] == [list(map(str, row)) for row in edges]


def test_no_programs_at_all() -> None:
    for shape in ((0, 7), (3, 0)):
        result = provenance(np.zeros(shape, np.uint8))
        assert [len(getattr(result, table.name)) for table in fields(Provenance)] == [0] * 5


def test_errors_say_what_was_expected() -> None:
    array = tokens.encode(["34+7=.", "1."])
    with pytest.raises(ValueError, match=r"cut 3 of program 1 lies outside 0\.\.1: a cut counts the tokens"):
        provenance(array, np.array([2, 3]))
    with pytest.raises(ValueError, match=r"cuts are int64 \[1\]; expected one integer for each of the 2 programs"):
        provenance(array, np.array([2]))
    with pytest.raises(ValueError, match="cuts are float64"):
        provenance(array, np.array([2.0, 1.0]))
    with pytest.raises(ValueError, match="programs must be a uint8 array"):
        provenance(np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match=r"cut 9 lies outside 0\.\.5"):
        provenance_of("34+7=.", 9)
    with pytest.raises(ValueError, match="is not an instruction"):
        provenance_of("3 4")


# --- compiled and plain ----------------------------------------------------------------------------------------------


def test_agreement_on_the_cases() -> None:
    assert disagreement([*PAPER, *(case.text for case in CASES if len(case.text) < 200)]) is None


@relaxed
@given(st.lists(programs.texts, min_size=1, max_size=6))
def test_agreement_on_random_text(texts: list[str]) -> None:
    assert disagreement(texts) is None


def test_agreement_on_programs_of_all_kinds() -> None:
    r = Random(5)
    for seed in range(examples(2)):
        texts = programs.stream(seed, 120)
        assert disagreement(texts) is None
        assert disagreement(texts, some_cuts(texts, r)) is None


@pytest.mark.slow
def test_agreement_on_many_programs() -> None:
    for seed in range(examples(20)):
        assert disagreement(programs.stream(1000 + seed, 250)) is None


@pytest.mark.parametrize("name", FAMILIES)
def test_agreement_on_the_families(name: str) -> None:
    texts = tokens.decode(FAMILIES[name]().generate(40, np.random.default_rng(3)))
    assert disagreement(texts) is None
    assert disagreement(texts, some_cuts(texts, Random(name))) is None


def test_threads_and_cuts_change_nothing() -> None:
    texts = [text for text in programs.stream(77, 700) if len(text) < 60]
    array = tokens.encode(texts, 60)
    cuts = some_cuts(texts, Random(1))
    prefixes = tokens.encode([text[:cut] for text, cut in zip(texts, cuts, strict=True)], 60)
    one, two, cut = provenance(array, threads=1), provenance(array, threads=2), provenance(array, cuts)
    of_prefixes = provenance(prefixes)
    for table in fields(Provenance):
        for column in fields(type(getattr(one, table.name))):
            for mine, other in ((one, two), (cut, of_prefixes)):
                values = getattr(getattr(mine, table.name), column.name)
                assert np.array_equal(values, getattr(getattr(other, table.name), column.name))


# --- what the rows promise -------------------------------------------------------------------------------------------


def short_programs(seed: int, n: int) -> list[str]:
    return [text for text in programs.stream(seed, n) if 0 < len(text) < 80]


def value_at(state: vm.State, place: str) -> vm.Value:
    kind, _, name = place.partition(".")
    return state.registers[name] if kind == "reg" else state.stack[-1 - int(name)]


def test_the_value_of_a_row_lies_at_its_place() -> None:
    texts = short_programs(11, 400)
    n_rows = 0
    for text, rows in zip(texts, graphs(texts), strict=True):
        states = vm.run(text).states
        for number, _, _, edit_at, place, _, _ in rows.occurrences:
            _, _, _, _, kind, v, tag = rows.values[number]
            content = value_at(states[edit_at], place)
            seen = ("int", content.v, content.tag) if isinstance(content, vm.Int) else (kind, 0, 0)
            assert seen == (kind, v, tag), (text, place, edit_at)
            n_rows += 1
    assert n_rows > 5000


def without_calls(seed: int, n: int) -> list[str]:
    r = Random(seed)
    return ["".join(r.choice("0123456789ABABabab+-*<:\\@o;?") for _ in range(r.randrange(6, 22))) for _ in range(n)]


def test_an_edit_of_an_occurrence_is_the_program_with_another_value_there() -> None:
    """The edited run leaves what a text leaves that puts a 9 there: `;9` drops the entry first, `9A` stores it, and
    `A;9a` keeps what lies above."""
    n_roles = dict.fromkeys(ROLES, 0)
    texts = without_calls(12, 150)
    for text, rows in zip(texts, graphs(texts), strict=True):
        for _, role, token, edit_at, place, _, _ in rows.occurrences:
            if role != "stored" and place.startswith("reg"):
                written = "9" + place[-1].upper()
            elif role == "stored" or place == "stack.0":
                written = ";9"
            elif place == "stack.1" and not set(text) & set("Aa"):
                written = "A;9a"
            else:
                continue
            at = token if role in ("consumed", "overwritten", "stored") else token + 1
            expected = vm.run(text[:at] + written + text[at:]).outputs
            assert oracle.edit(text, edit_at, {place: 9}).outputs == expected, (text, role, token, place)
            n_roles[role] += 1
            if role == "overwritten":
                assert expected == vm.run(text).outputs
    assert min(n_roles.values()) > 30, n_roles


def test_a_value_reaches_what_descends_from_it_and_nothing_else() -> None:
    """Another digit in the text changes no value that is not computed from it, along the edges; most that are, it
    changes."""
    n_changed = n_descendants = 0
    r = Random(4)
    for name in ("arith", "compare", "register", "stack", "equality"):
        texts = tokens.decode(FAMILIES[name]().generate(60, np.random.default_rng(8)))
        for text, rows in zip(texts, graphs(texts), strict=True):
            if set(text) & set("?"):
                continue
            at = r.choice([k for k, token in enumerate(text) if token.isdigit()])
            changed = text[:at] + r.choice([d for d in "0123456789" if d != text[at]]) + text[at + 1 :]
            others = graph(changed).values
            if len(others) != len(rows.values):  # a NAN made shuffles make values
                continue
            reached = descendants(rows, next(row[0] for row in rows.values if row[1] == at))
            differ = {mine[0] for mine, other in zip(rows.values, others, strict=True) if mine[4:] != other[4:]}
            assert differ <= reached, (text, changed)
            n_changed, n_descendants = n_changed + len(differ), n_descendants + len(reached)
    assert n_changed > 300
    assert n_changed > 0.5 * n_descendants


def descendants(rows: Graph, root: int) -> set[int]:
    """The values that are computed from a value, itself among them."""
    made_at = {arose: value for value, arose, *_ in rows.values}
    reached = {root}
    for value, _, query, _, kind, *_ in rows.edges:  # in the order of execution
        if kind == "operand" and value in reached and query in made_at:
            reached.add(made_at[query])
    return reached
