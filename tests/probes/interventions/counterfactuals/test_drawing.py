"""Pairs for interventions: every claim of every pair, checked one by one with the plain machine."""

from __future__ import annotations

from collections import Counter

import pytest

from cadmus.machine import tokens, vm
from cadmus.programs import splits
from cadmus.programs.families import Register
from cadmus.programs.parts.family import Family
from cadmus.programs.skeletons import skeleton
from cadmus.states.provenance import ROLES
from cadmus.states.provenance_plain import provenance_of
from probes.interventions.counterfactuals import VARIABLES, PairVariable, draw
from probes.interventions.counterfactuals.variables import Occurrence
from tests.probes.interventions.counterfactuals.plain_pairs import MINI, answer, arose, edited, own, put, rows_of, some

NAMES = list(VARIABLES)
THREE = ("source", "same_value", "third_value")


# --- pairs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", NAMES)
def test_answers_are_what_the_plain_machine_asks_for(variable: str) -> None:
    for row, roles, family in rows_of(some(variable)):
        where = arose(roles)
        assert answer(family, row["base"]) == row["base_answer"] != ""
        assert answer(family, row["base"], where, row["source_value"]) == row["edited_answer"]
        assert answer(family, row["base"], where, row["third_source_value"]) == row["third_answer"]
        assert answer(family, row["source"]) == row["source_answer"]
        assert answer(family, row["same_value"]) == row["same_value_answer"]
        assert len({row["base_answer"], row["edited_answer"], row["third_answer"], ""}) == 4
        if row["kind"] == "minimal":
            assert row["source_answer"] == row["edited_answer"]
        else:
            assert row["source_answer"] not in (row["base_answer"], row["edited_answer"], "")


@pytest.mark.parametrize("variable", NAMES)
def test_sources_hold_the_values_that_they_are_said_to_hold(variable: str) -> None:
    for row, roles, _ in rows_of(some(variable)):
        ((at, place),) = arose(roles)
        assert place == "stack.0"
        held = [vm.run(row[name]).states[at].stack[-1] for name in ("base", *THREE)]
        values = (row["value"], row["source_value"], row["value"], row["third_source_value"])
        assert held == [vm.Int(v) for v in values]
        assert row["value"] != row["source_value"]
        graph = provenance_of(row["base"])
        (number,) = (o.value for o in graph.occurrences if (o.role, o.edit_at, o.place) == ("arose", at, place))
        assert (row["stratum"] == "literal") == row["base"][graph.values[number].at].isdigit()


@pytest.mark.parametrize("variable", NAMES)
def test_minimal_sources_differ_in_the_value_alone(variable: str) -> None:
    n = 0
    for row, roles, _ in rows_of(some(variable)):
        if row["kind"] == "minimal":
            ((at, _),) = arose(roles)
            base, source = (vm.run(row[name]).states[at] for name in ("base", "source"))
            assert put(base, "stack.0", row["source_value"]) == source
            assert row["base"][at + 1 :] == row["source"][at + 1 :]
            n += 1
    assert n == 8


@pytest.mark.parametrize("variable", NAMES)
def test_texts_are_aligned_held_out_and_apart(variable: str) -> None:
    pairs = some(variable).pairs
    assert list(pairs["pair"]) == list(range(16))
    assert Counter(pairs["kind"]) == {"minimal": 8, "discriminating": 8}
    sources = set(pairs[list(THREE)].to_numpy().ravel())
    assert pairs["base"].is_unique
    assert not set(pairs["base"]) & sources
    for row, _, family in rows_of(some(variable)):
        texts = [row[name] for name in ("base", *THREE)]
        assert len({skeleton(text) for text in texts}) == 1
        assert row["base_skeleton"] == row["source_skeleton"] == skeleton(row["base"])
        assert {len(text) for text in texts} == {row["cut"]}
        assert row["shift"] == 0
        own = (row["base_answer"], row["source_answer"], row["same_value_answer"], answer(family, row["third_value"]))
        for text, asked in zip(texts, own, strict=True):
            assert any(family.accepts(text + asked + rest) for rest in rests(family, text)), text


def rests(family: Family, text: str) -> list[str]:
    """Ends of programs of a family: some more statements."""
    load = next((token for token in "abcd" if token.upper() in text), "")
    more = {"register": f"{load}0=", "arith": "34+7=", "stack": "11\\+2="}.get(family.name, "")
    return [more * k + "." for k in range(4)]


def test_bases_are_cut_from_held_out_programs() -> None:
    # the family with one statement: the program is the prompt, the answer and the end
    rows = some("compare.first").pairs
    programs = tokens.encode(
        [base + asked + "." for base, asked in zip(rows["base"], rows["base_answer"], strict=True)]
    )
    assert (splits.splits(programs) == splits.SPLITS.index("test_skeleton")).all()
    assert not MINI.hold_out.holds_out(programs).any()


def test_values_stay_in_the_range_of_the_family() -> None:
    for name in ("reg.a", "compare.first", "argument"):
        for row, roles, family in rows_of(some(name)):
            ((at, place),) = arose(roles)
            runs = [vm.run(row[text]) for text in ("base", *THREE)]
            runs += [edited(row["base"], [(at, place)], row[v]) for v in ("source_value", "third_source_value")]
            for result in runs:
                registers = {v.v for state in result.states for v in state.registers.values() if v is not vm.NAN}
                stack = {value.v for value in result.outputs[-VARIABLES[name].reads :]}
                assert all(family.low <= v <= family.high for v in registers | stack)


def test_numbers_that_a_family_writes_out_keep_their_form() -> None:
    for name in ("reg.a", "reg.d"):
        for row, _, family in rows_of(some(name)):
            for text in (row[column] for column in THREE):
                positions = [i for i, token in enumerate(text) if token in "ABCD"]
                for start, end in zip([-1, *positions], positions):
                    number = vm.run(text[start + 1 : end]).outputs
                    if not set(text[start + 1 : end]) & set("abcd="):
                        assert family.assertion_for(number) == text[start + 1 : end] + "=", text


# --- roles -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", NAMES)
def test_roles_are_those_of_the_plain_provenance(variable: str) -> None:
    for row, roles, _ in rows_of(some(variable)):
        ((at, _),) = arose(roles)
        graphs = [provenance_of(row[name]) for name in ("base", "source")]
        own, other = (
            {
                (o.role, o.token, o.edit_at, o.place)
                for o in graph.occurrences
                if o.value == next(a.value for a in graph.occurrences if (a.role, a.token) == ("arose", at))
            }
            for graph in graphs
        )
        rows = roles[roles["base_token"] >= 0]
        assert set(zip(rows["role"], rows["base_token"], rows["edit_at"], rows["place"], strict=True)) == own
        assert list(dict.fromkeys(roles["role"])) == list(ROLES)
        for entry in rows.to_dict("records"):
            in_source = (entry["role"], entry["base_token"], entry["edit_at"], entry["place"]) in other
            assert entry["source_token"] == (entry["base_token"] if in_source else -1)
            assert in_source or "source" in entry["note"]
        absent = roles[roles["base_token"] < 0]
        assert not set(absent["role"]) & set(rows["role"])
        assert (absent["note"] != "").all()


@pytest.mark.parametrize("variable", NAMES)
def test_the_answer_of_every_role_is_that_of_its_edit(variable: str) -> None:
    for row, roles, family in rows_of(some(variable)):
        v = row["source_value"]
        for role in ROLES:
            rows = roles[(roles["role"] == role) & (roles["base_token"] >= 0)].to_dict("records")
            for entry in rows:
                assert answer(family, row["base"], [(entry["edit_at"], entry["place"])], v) == entry["edited_answer"]
                assert entry["edited_answer"] or entry["note"]
            patched = [(entry["edit_at"], entry["place"]) for entry in rows if entry["source_token"] >= 0]
            joint = answer(family, row["base"], patched, v) if patched else ""
            assert {entry["joint_answer"] for entry in rows} <= {joint}


def test_a_dead_copy_keeps_the_answer_of_the_base_and_a_loaded_one_changes_itself_alone() -> None:
    bases = ["3A4Aaa+8=.", "3A4Ba5A=b4=.", "2A3Bab+a-3=."]
    register = Register(low=-20, high=20, operators="+-")
    (row,), roles = (table.to_dict("records") for table in own("reg.a", bases[:1], ["3A5Aaa+91+=."], register))
    assert (row["value"], row["source_value"], row["edited_answer"], row["overwrites"]) == (4, 5, "91+=", 1)
    loads = [entry for entry in roles if entry["role"] == "loaded"]
    assert [entry["edited_answer"] for entry in loads] == ["9=", "9="]  # 5 + 4: one copy
    assert [entry["joint_answer"] for entry in loads] == ["91+=", "91+="]
    dead = PairVariable("dead", ("register",), (Occurrence("overwritten", "reg.a"),))
    with pytest.raises(ValueError, match=r"none of 1 bases and sources makes a pair of dead: in 1 of them no"):
        own(dead, bases[:1], ["2A4Aaa+8=."], register)


def test_read_distance_and_overwrites_count_tokens_and_stores() -> None:
    for row, roles, _ in rows_of(some("reg.b")):
        stored = int(roles[roles["role"] == "stored"]["base_token"].iloc[0])
        assert row["base"][stored] == "B"
        assert row["read_distance"] == row["base"].index("b", stored) - stored
        assert row["overwrites"] == row["base"][:stored].count("B")
    for row, roles, _ in rows_of(some("argument")):
        ((at, _),) = arose(roles)
        assert row["base"][at + row["read_distance"]] == "f"


def test_positions_are_those_of_the_tables() -> None:
    pairs = some("reg.a")
    base, source = pairs.sequences(), pairs.sequences("source")
    assert base.shape == source.shape == pairs.sequences("third_value").shape
    for row, roles, _ in rows_of(pairs):
        i = row["pair"]
        assert tokens.decode(base[i : i + 1, 1:])[0].rstrip(".") == row["base"]
        for role in ROLES:
            rows = roles[(roles["role"] == role) & (roles["source_token"] >= 0)]
            expected = sorted({token + 1 for token in rows["base_token"]})
            assert [p for p in pairs.positions(role)[i].tolist() if p >= 0] == expected
            assert (pairs.source_positions(role) == pairs.positions(role)).all()
            assert pairs.present(role)[i] == bool(expected)
    assert pairs.cuts.tolist() == [len(text) for text in pairs.pairs["base"]]


# --- balance ---------------------------------------------------------------------------------------------------------


def test_strata_answers_and_values_are_balanced() -> None:
    pairs = some("reg.c", 120).pairs
    for _, rows in pairs.groupby("kind"):
        assert sorted(Counter(rows["stratum"]).values()) == [30, 30]
        assert max(Counter(rows["base_answer"]).values()) <= 8
        assert max(Counter(rows["edited_answer"]).values()) <= 6
        assert rows["source_value"].nunique() >= 15
    relations = some("compare.first", 120).pairs
    for _, rows in relations.groupby("kind"):
        changes = Counter(zip(rows["base_answer"], rows["edited_answer"], strict=True))
        assert len(changes) == 6
        assert min(changes.values()) >= 5, changes
        assert max(changes.values()) <= 18, changes


def test_both_families_of_a_variable_have_their_share() -> None:
    assert Counter(some("stack.0").pairs["family"]) == {"stack": 8, "arith": 8}


def test_the_seed_fixes_the_pairs() -> None:
    again, other = draw("reg.a", MINI, 16, 0), some("reg.a", 16, 1)
    assert again.pairs.equals(some("reg.a").pairs)
    assert again.roles.equals(some("reg.a").roles)
    assert not set(other.pairs["base"]) & set(again.pairs["base"])
    assert again.about["mixture"] == MINI.fingerprint
