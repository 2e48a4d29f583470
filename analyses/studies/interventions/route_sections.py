"""The parts of the page on how values travel: heads and edges, store or load, for how long, and what dead values do."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from analyses.reporting import report
from analyses.studies.interventions import route_figures, words
from analyses.studies.interventions.tables import Tables, heads_claimed, is_loaded


def sentence(tables: Tables) -> str:
    """What moves the value of one variable, and how it reaches the answer; empty where nothing is claimed."""
    heads = heads_claimed(tables.heads)
    word = mechanism_of(tables.mechanism)
    sentences = [f"Heads: {heads}." if heads else "", f"Over all pairs, the value is {word}." if word else ""]
    return " ".join(filter(None, sentences))


def mechanism_of(table: pd.DataFrame) -> str:
    """How one variable's value gets to where it is used, over all its pairs, as a predicate; empty where that is
    undecided."""
    word = table["mechanism"].iloc[0] if len(table) else "undecided"
    if word == "undecided":
        return ""
    loaded = is_loaded(table)
    full = "both tracked at the store and looked up at the load" if word == "both" else word
    return words.mechanism(full, loaded)


def sections(tables: Tables) -> tuple[report.Section, ...]:
    """A section for each part that was measured."""
    return tuple(_sections(tables))


def _sections(tables: Tables) -> Iterator[report.Section]:
    if len(tables.heads):
        yield _heads(tables.heads)
    if len(tables.edges):
        yield _edges(tables.edges)
    if len(tables.mechanism):
        yield _mechanism(tables.mechanism)
    if len(tables.persistence):
        yield _persistence(tables.persistence)
    if len(tables.dead):
        yield _dead(tables.dead)


def _heads(table: pd.DataFrame) -> report.Section:
    names = [
        f"{variable}: {heads_claimed(part)}"
        for variable, part in table.groupby("variable", sort=False)
        if heads_claimed(part)
    ]
    return report.Section(
        "heads",
        "Heads against the data-flow graph",
        (
            "The machine names the token that each value comes from: a load's store, an operator's operands, the "
            "decision's numbers. A head attends along such edges where its attention on them lies beyond what the "
            "tokens and their distance predict (a baseline learned on other skeletons) and beyond the untrained "
            "twin's; it is needed where blocking them breaks right answers more often than blocking as much "
            "attention elsewhere in the head, and where no value flows; it carries the value where exchanging its "
            "output moves the answer.",
            f"Needed or carrying heads, by variable: {'; '.join(names)}."
            if names
            else "No head is claimed for any variable.",
        ),
        figure=route_figures.heads(table),
        caption="Shade: attention on the kind of edge where it lies farthest beyond the baseline. Only marked cells "
        "claim something; the kind of edge is written beside the marks.",
        table=table,
    )


def _edges(table: pd.DataFrame) -> report.Section:
    return report.Section(
        "edges",
        "Without these edges",
        (
            "All edges of a kind are blocked in all heads and blocks at once (attention to them becomes 0, the rest is "
            "normalized again), beside blocking edges of equal attention. Where the edges are moved to the carrier of "
            "another value instead, the model may answer by that one.",
        ),
        figure=route_figures.edges(table),
        caption="In parentheses: prompts that count. Bars: 95 % intervals over skeletons. The file has every block "
        "too.",
        table=table,
    )


def _mechanism(table: pd.DataFrame) -> report.Section:
    parts = dict(iter(table.groupby("variable", sort=False)))
    story = table.drop_duplicates(["variable", "group"])[["variable", "group", "pairs", "mechanism"]]
    word = [words.mechanism(row.mechanism, is_loaded(parts[row.variable])) for row in story.itertuples()]
    known = {variable: mechanism_of(part) for variable, part in parts.items()}
    phrases = [f"{words.variable(variable)} is {what}" for variable, what in known.items() if what]
    return report.Section(
        "mechanism",
        "Tracked at the store or looked up at the load",
        (
            "A value is tracked where an exchange at its store's token moves the answer. It is looked up where "
            "exchanges at the token where it arose still do, up to the block before the first at which exchanges at "
            "the load (or at the operator that takes it) do. Groups part the pairs by read distance (at its median) "
            "and by whether the register had been written before.",
            f"{words.capital('; '.join(phrases))}." if phrases else "",
        ),
        figure=route_figures.mechanism(table),
        caption="Lines: from the first to the last block after which an exchange at this role alone moves the answer "
        "(lower bound of d above 0.05), pairs of both strata together. In parentheses: counting pairs.",
        table=table,
        display_table=story.assign(mechanism=word),
    )


def _persistence(table: pd.DataFrame) -> report.Section:
    single = table[table["span"] == "single"]
    single = single.assign(variable=single["variable"] + ", " + single["stratum"])
    return report.Section(
        "persistence",
        "For how long",
        (
            "How often the answer is moved, by the number of tokens between the exchange and the decision, each role "
            "at the block where most exchanges succeed in one half of the skeletons; the other half is shown. "
            "Distances differ between programs and not within one, so that what else differs between them may play a "
            "part.",
        ),
        figure=route_figures.persistence(single) if len(single) else None,
        caption="Bars: 95 % intervals over skeletons. Axis: the least number of tokens of each group.",
        table=table,
    )


def _dead(table: pd.DataFrame) -> report.Section:
    rows = table[table["pairs"] > 0]
    if len(rows):
        worst = rows.loc[rows["wrong"].idxmax()]
        text = (
            "Exchanging a register's value that is overwritten before anything reads it leaves the machine's answer as "
            "it is. The model's becomes wrong in at most "
            f"{report.interval_of(worst, 'wrong')} of "
            f"{int(worst['pairs']):,} prompts ({words.place(int(worst['layer']), worst['role'])})."
        )
    else:
        text = f"Nothing can be said of dead values: {table['note'].iloc[0]}."
    return report.Section(
        "dead",
        "Dead values",
        (text,),
        figure=route_figures.dead(rows) if len(rows) else None,
        caption="Bars: 95 % intervals over skeletons. The axis ends where the highest of them does.",
        table=table,
    )
