"""Pairs of programs of one's own: any bases with any sources, of equal length or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cadmus.machine import tokens
from cadmus.programs.parts.family import Family
from cadmus.programs.skeletons import skeleton
from probes.interventions.counterfactuals.pairs import Pairs
from probes.interventions.counterfactuals.prompts import Answers, at_decisions
from probes.interventions.counterfactuals.roles import asked_for
from probes.interventions.counterfactuals.tables import about, joined, with_roles
from probes.interventions.counterfactuals.variables import PairVariable, named_values, resolve_variable


@dataclass(frozen=True)
class _Cut:
    """A program cut at one of its decision positions, and one of the values there."""

    program: int
    """The number of the program."""
    prompt: str
    """Its text up to the cut."""
    decision: int
    """The number of the cut among the program's."""
    ordinal: int
    """The number of the value among those that the variable names there."""
    value: int
    """The value's number in the prompt's provenance."""
    arose: int
    """Where it arose."""
    v: int
    """The Int that it is."""
    literal: bool
    """Whether a digit made it."""


def from_programs(variable: str | PairVariable, bases: Sequence[str], sources: Sequence[str], family: Family) -> Pairs:
    """Pairs of bases[i] and sources[i], whole programs of one family, however they came about.

    A pair is cut at the last decision position, and is of the first value there, for which base and source both have
    the variable and the answers make a pair: editing the base asks for another answer than its own, and the source's
    own answer is the edited one (kind "minimal", be the rest equal or not) or neither ("discriminating"). Programs
    without such are left out; `about["left_out"]` counts them. Prompts of different length have a `shift`: those are
    aligned role by role. Same-value and third-value sources are taken from the other sources, of the source's skeleton
    and with the value at the same token; empty where there is none.

    Raises ValueError for an unknown variable, a family that lacks it, lists of different lengths, a text that is not a
    program of the family, and where no pair is left.
    """
    variable = resolve_variable(variable)
    bases, sources = tokens.text_list(bases, "bases"), tokens.text_list(sources, "sources")
    if family.name not in variable.families:
        raise ValueError(
            f"programs of the family {family.name} have no {variable.name}; those of {', '.join(variable.families)} do"
        )
    if len(bases) != len(sources) or not bases:
        raise ValueError(
            f"there are {len(bases):,} bases and {len(sources):,} sources; give one or more, and each base its own "
            "source"
        )
    answers = Answers(family, variable.reads)
    base_cuts, source_cuts = (_cuts(variable, family, programs) for programs in (bases, sources))
    partners = {(cut.program, cut.decision, cut.ordinal): cut for cut in source_cuts}
    both = [
        (cut, partners[cut.program, cut.decision, cut.ordinal])
        for cut in sorted(base_cuts, key=lambda cut: (cut.program, -cut.decision, cut.ordinal))
        if (cut.program, cut.decision, cut.ordinal) in partners
    ]
    rows: dict[int, dict[str, Any]] = {}
    cuts: dict[int, tuple[_Cut, _Cut]] = {}
    for (base, source), row in zip(both, _rows(variable, both, answers)):
        if row is not None and base.program not in rows:
            rows[base.program], cuts[base.program] = row, (base, source)
    if not rows:
        n_without = len(bases) - len({base.program for base, _ in both})
        raise ValueError(
            f"none of {len(bases):,} bases and sources makes a pair of {variable.name}: in {n_without:,} of them no "
            "such value reaches the answer in both programs; in the others the answers do not differ, of the base, of "
            "the base with the source's value, and of the source: give sources with another value and another answer"
        )
    _add_controls(list(rows.values()), list(cuts.values()), source_cuts, answers)
    table, roles = with_roles(pd.DataFrame(list(rows.values())), answers, 0)
    of_what = about(variable.name, [family]) | {"left_out": len(bases) - len(rows)}
    return Pairs(*joined([table], [roles]), (family,), of_what)


def _cuts(variable: PairVariable, family: Family, programs: Sequence[str]) -> list[_Cut]:
    """Every program at every decision position with every value that the variable names there."""
    decisions = [family.decisions(text) for text in programs]
    owners, cuts, prompts = at_decisions(programs, decisions)
    every = named_values(variable, prompts, cuts)
    out: list[_Cut] = []
    columns = (getattr(every, name).tolist() for name in ("prompt", "value", "arose", "v", "literal"))
    for row, value, arose, v, literal in sorted(zip(*columns), key=lambda entry: (entry[0], entry[2])):
        program, cut = int(owners[row]), int(cuts[row])
        decision, prompt = decisions[program].index(cut), programs[program][:cut]
        is_next = bool(out) and (out[-1].program, out[-1].decision) == (program, decision)
        out.append(_Cut(program, prompt, decision, out[-1].ordinal + 1 if is_next else 0, value, arose, v, literal))
    return out


def _answers_of(prompts: Sequence[_Cut], values: Sequence[int], answers: Answers) -> list[str]:
    """What each prompt asks for where its value is values[i]; empty where nothing makes the program true."""
    if not prompts:
        return []
    arrays = tokens.encode([cut.prompt for cut in prompts])
    cuts, at = (np.array(column, np.int64) for column in zip(*((len(cut.prompt), cut.arose) for cut in prompts)))
    return asked_for(arrays, cuts, at, [{"stack.0": v} for v in values], answers)


def _rows(variable: PairVariable, both: list[tuple[_Cut, _Cut]], answers: Answers) -> list[dict[str, Any] | None]:
    """The rows of the table of pairs; None where the answers make none."""
    bases, sources = [base for base, _ in both], [source for _, source in both]
    own, edited, other = (
        _answers_of(prompts, [cut.v for cut in values], answers)
        for prompts, values in ((bases, bases), (bases, sources), (sources, sources))
    )
    rows: list[dict[str, Any] | None] = []
    for base, source, *texts in zip(bases, sources, own, edited, other):
        if not all(texts) or texts[0] in texts[1:] or base.v == source.v:
            rows.append(None)
            continue
        rows.append(
            {
                "variable": variable.name,
                "family": answers.family.name,
                "kind": "minimal" if texts[1] == texts[2] else "discriminating",
                "stratum": "literal" if base.literal else "computed",
                "base": base.prompt,
                "source": source.prompt,
                "cut": len(base.prompt),
                "value": base.v,
                "source_value": source.v,
                **dict(zip(("base_answer", "edited_answer", "source_answer"), texts)),
                "shift": len(source.prompt) - len(base.prompt),
                "_value": base.value,
                "_source_value": source.value,
                "_arose": base.arose,
            }
        )
    return rows


def _add_controls(
    rows: list[dict[str, Any]], cuts: list[tuple[_Cut, _Cut]], sources: list[_Cut], answers: Answers
) -> None:
    """Complete the rows with same-value and third-value sources, where there are some."""
    alike: dict[tuple[str, int], list[_Cut]] = {}
    for cut in sources:
        alike.setdefault((skeleton(cut.prompt), cut.arose), []).append(cut)
    own_answers = dict(
        zip(((cut.prompt, cut.v) for cut in sources), _answers_of(sources, [cut.v for cut in sources], answers))
    )
    others = [
        [cut for cut in alike[skeleton(source.prompt), source.arose] if cut is not source and cut.prompt != base.prompt]
        for base, source in cuts
    ]
    edits = [(base, cut) for (base, _), mine in zip(cuts, others) for cut in mine]
    texts = _answers_of([base for base, _ in edits], [cut.v for _, cut in edits], answers)
    edited = {(base.prompt, base.value, cut.v): text for (base, cut), text in zip(edits, texts)}
    for row, (base, _), mine in zip(rows, cuts, others):
        same = next((cut for cut in mine if cut.v == base.v and own_answers[cut.prompt, cut.v]), None)
        row["same_value"], row["same_value_answer"] = (
            (same.prompt, own_answers[same.prompt, same.v]) if same else ("", "")
        )
        known = ("", row["base_answer"], row["edited_answer"])
        third = next((cut for cut in mine if edited[base.prompt, base.value, cut.v] not in known), None)
        row["third_value"] = third.prompt if third else ""
        row["third_source_value"] = third.v if third else row["value"]
        row["third_answer"] = edited[base.prompt, base.value, third.v] if third else ""
