"""What completions of pairs are worth: decided by the machine, the prompts frozen with their own definitions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cadmus.machine import oracle, tokens, vm
from cadmus.runtime.seeds import generator
from cadmus.states.provenance import ROLES
from probes.interventions.counterfactuals.pairs import Pairs
from probes.interventions.counterfactuals.roles import JointEdit

ENDS = "=<>"  # tokens that end an answer: they leave a truth value, which no family's program takes again
COLUMNS = ("present", "has_form", "true_original", "true_edited", "canonical", "success")


def through_answer(text: str, cut: int, ends: str = ENDS) -> str:
    """A completion through the end of its first answer: the first of the tokens `ends` behind the cut, or its `.`."""
    places = [place for end in ends + vm.END if (place := text.find(end, cut)) >= 0]
    return text[: min(places) + 1] if places else text


def common_beginning(first: str, second: str) -> str:
    """What two texts begin with alike."""
    n = next((i for i, (a, b) in enumerate(zip(first, second)) if a != b), min(len(first), len(second)))
    return first[:n]


def with_end(text: str) -> str:
    """The text with a `.` behind it, where it has none at its end."""
    return text if text.endswith(vm.END) else text + vm.END


def judge(pairs: Pairs, role: str | None, completions: Sequence[str]) -> pd.DataFrame:
    """What each pair's completion is worth, where the model was patched at a role: bool columns, one row a pair.

    - `present`: base and source have the role; where not, nothing is edited, and the row says nothing.
    - `has_form`: the program ends, and has its family's form.
    - `true_original`, `true_edited`: it is true as the machine goes on from the base's state, and from the edited one.
    - `canonical`: it begins with the answer that the family's rule asks for after the edit.
    - `success`: `has_form`, `true_edited` and not `true_original`.

    Args:
        pairs: the pairs.
        role: of `provenance.ROLES`, all its occurrences being patched; None: the value as a whole is another.
        completions: a whole program each, the base first.

    Raises ValueError for another number of completions, one that does not begin with its base, and an unknown role.
    """
    programs = _checked(pairs, completions)
    return judge_rows(pairs, role, np.arange(len(pairs)), programs)


def counting(pairs: Pairs, role: str | None, completions: Sequence[str]) -> np.ndarray:
    """Which pairs count, bool [n]: the model's own completion of the base, without an intervention, is true for the
    original state and false for the edited one. Arguments and errors as for `judge`; also raises ValueError for a role
    that none of the pairs has."""
    table = judge(pairs, role, completions)
    if len(pairs) and not table["present"].any():
        has = ", ".join(name for name in ROLES if pairs.present(name).any())
        raise ValueError(f"none of {len(pairs):,} pairs has the role {role!r}, so that none can count; they have {has}")
    return (table["present"] & table["true_original"] & ~table["true_edited"]).to_numpy()


def chance(
    pairs: Pairs,
    completions: Sequence[str],
    role: str | None = None,
    *,
    others: int = 16,
    seed: int = 0,
    edits: list[JointEdit] | None = None,
) -> pd.DataFrame:
    """How often other pairs' completions would do: float columns of `judge`'s names, one row a pair.

    What stands behind the base in `others` completions of other pairs of its family (all of them where there are fewer)
    is put behind its own; each share is of these. NaN where a pair is its family's only one. edits:
    `pairs.edits(role)`, where they are known.
    """
    continuations = [text[cut:] for text, cut in zip(_checked(pairs, completions), pairs.cuts.tolist())]
    rng = generator("chance", seed)
    index, programs = [], []
    for _, members in pairs.pairs.groupby("family").groups.items():
        mine = np.asarray(members)
        for place, row in enumerate(mine.tolist()):
            steps = 1 + rng.permutation(len(mine) - 1)[:others]
            index += [row] * len(steps)
            programs += [
                pairs.pairs["base"][row] + continuations[k] for k in mine[(place + steps) % len(mine)].tolist()
            ]
    table = judge_rows(pairs, role, np.array(index, np.int64), programs, edits)
    return table.astype(float).groupby(index).mean().reindex(range(len(pairs)))


def _checked(pairs: Pairs, completions: Sequence[str]) -> list[str]:
    """The completions, each through its first `.`. Raises ValueError where they are not those of the pairs."""
    completions = tokens.text_list(completions, "completions")
    if len(completions) != len(pairs):
        raise ValueError(f"there are {len(completions):,} completions of {len(pairs):,} pairs; expected one a pair")
    for row, (text, base) in enumerate(zip(completions, pairs.pairs["base"])):
        if not vm.check(text).startswith(base):
            raise ValueError(
                f"completion {row}, {text!r}, does not begin with its base {base!r}; give whole programs, without the "
                "marker, in the order of the pairs"
            )
    return list(map(tokens.through_end, completions))


def judge_rows(
    pairs: Pairs,
    role: str | None,
    index: np.ndarray,
    programs: list[str],
    edits: list[JointEdit] | None = None,
) -> pd.DataFrame:
    """The columns of `judge` for programs, each of them a completion of the pair index[i].

    edits: `pairs.edits(role)`, where they are known already.
    """
    table = pairs.pairs
    edits = pairs.edits(role) if edits is None else edits
    if role is None:
        answers, present = table["edited_answer"].tolist(), np.ones(len(pairs), np.bool_)
    else:
        rows = pairs.roles[pairs.roles["role"] == role].drop_duplicates("pair")
        answers, present = rows.sort_values("pair")["joint_answer"].tolist(), pairs.present(role)
    families = [pairs.family(name) for name in table["family"]]
    owners, cuts = index.tolist(), pairs.cuts[index]
    if not owners:
        return pd.DataFrame({name: np.zeros(0, np.bool_) for name in COLUMNS})
    arrays = tokens.encode(programs)
    at = np.array([edits[row].at for row in owners], np.int64)
    true_original = oracle.continuation_verdicts(arrays, cuts)
    true_edited = oracle.continuation_verdicts(arrays, cuts, at, [edits[row].places for row in owners])
    has_form = np.array([text.endswith(vm.END) and families[row].accepts(text) for row, text in zip(owners, programs)])
    canonical = [
        bool(answers[row]) and text.startswith(answers[row], cut)
        for row, text, cut in zip(owners, programs, cuts.tolist())
    ]
    columns = (
        present[index],
        has_form,
        true_original,
        true_edited,
        np.array(canonical),
        present[index] & has_form & true_edited & ~true_original,
    )
    return pd.DataFrame(dict(zip(COLUMNS, columns)))
