"""Completions of pairs, judged as a plain implementation judges them."""

from __future__ import annotations

import numpy as np
import pytest

from cadmus.machine import vm
from cadmus.states.provenance import ROLES
from probes.interventions.counterfactuals import Pairs, chance, counting, judge
from tests.probes.interventions.counterfactuals.plain_pairs import answer, edited, rows_of, some

# --- judging ---------------------------------------------------------------------------------------------------------


def random_completions(pairs: Pairs, seed: int) -> list[str]:
    """Answers of some kind, answers of other pairs, trivial ones, and any tokens."""
    rng = np.random.default_rng(seed)
    letters = [token for token in vm.VOCAB if token not in "{}"]
    out = []
    for row in pairs.pairs.to_dict("records"):
        other = pairs.pairs["edited_answer"][int(rng.integers(len(pairs)))]
        ends = [row["base_answer"], row["edited_answer"], row["third_answer"], other, ":=", ";1", ""]
        ends.append("".join(rng.choice(letters, 3)))
        out.append(row["base"] + ends[int(rng.integers(len(ends)))] + ("." if rng.random() < 0.9 else ""))
    return out


@pytest.mark.parametrize("variable", ["reg.a", "stack.1", "compare.second", "sequence", "argument"])
def test_judging_is_what_the_plain_machine_says(variable: str) -> None:
    pairs = some(variable)
    for seed, role in enumerate((None, *ROLES)):
        completions = random_completions(pairs, seed)
        table = judge(pairs, role, completions)
        assert list(table) == ["present", "has_form", "true_original", "true_edited", "canonical", "success"]
        for (row, roles, family), text, verdict in zip(
            rows_of(pairs), completions, table.to_dict("records"), strict=True
        ):
            text = text[: text.index(".") + 1] if "." in text else text
            rows = roles[(roles["role"] == (role or "arose")) & (roles["source_token"] >= 0)]
            edits = list(zip(rows["edit_at"], rows["place"], strict=True))
            asked = row["edited_answer"] if role is None else answer(family, row["base"], edits, row["source_value"])
            expected = {
                "present": bool(edits),
                "has_form": text.endswith(".") and family.accepts(text),
                "true_original": vm.verdict(text),
                "true_edited": edited(text, edits, row["source_value"]).is_true,
                "canonical": bool(edits and asked) and text.startswith(row["base"] + asked),
            }
            expected["success"] = (
                bool(edits) and expected["has_form"] and expected["true_edited"] and not expected["true_original"]
            )
            assert verdict == expected, (role, text)
        counts = table["present"] & table["true_original"] & ~table["true_edited"]
        if not table["present"].any():
            with pytest.raises(
                ValueError, match=f"none of 16 pairs has the role '{role}', so that none can count; they have "
            ):
                counting(pairs, role, completions)
            continue
        assert (counting(pairs, role, completions) == counts).all()


def test_right_answers_succeed_and_unmoved_ones_do_not() -> None:
    pairs = some("compare.first")
    for column, expected in (("edited_answer", 1.0), ("base_answer", 0.0), ("third_answer", 0.0)):
        completions = [base + asked + "." for base, asked in zip(pairs.pairs["base"], pairs.pairs[column], strict=True)]
        assert judge(pairs, None, completions)["success"].mean() == expected
        assert counting(pairs, None, completions).mean() == (column == "base_answer")


def test_chance_is_the_share_of_other_pairs_completions() -> None:
    pairs = some("stack.0")
    completions = random_completions(pairs, 3)
    shares = chance(pairs, completions, others=100)
    for row, _, family in rows_of(pairs):
        i = row["pair"]
        others = [k for k in range(len(pairs)) if k != i and pairs.pairs["family"][k] == family.name]
        mine = pairs.select(np.full(1, i))
        continuations = [completions[k][pairs.cuts[k] :] for k in others]
        verdicts = [judge(mine, None, [row["base"] + text])["true_edited"][0] for text in continuations]
        assert shares["true_edited"][i] == pytest.approx(np.mean(verdicts))
    few = chance(pairs, completions, others=3)
    assert set((few["true_edited"] * 3).round(6)) <= {0, 1, 2, 3}
    assert chance(pairs.select(np.zeros(1, int)), completions[:1])["success"].isna().all()
