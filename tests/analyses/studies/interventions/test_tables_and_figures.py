"""Findings are those of the tables; marks stand where a verdict is claimed, and nowhere else; sentences agree."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest

from analyses.reporting.report import with_interval
from analyses.studies.interventions import (
    figures,
    full_sections,
    route_figures,
    route_sections,
    study,
    summary,
    tables,
    words,
)
from tests.analyses.studies.interventions.planted_tables import MOVES
from tests.analyses.studies.interventions.planted_tables import tables as planted


@cache
def made() -> tables.Tables:
    return planted()


@cache
def headlines() -> pd.DataFrame:
    return tables.headlines(made())


def row_of(variable: str) -> dict:
    return headlines().set_index("variable", drop=False).loc[variable].to_dict()


# --- tables ----------------------------------------------------------------------------------------------------------


def test_the_finding_is_what_was_planted() -> None:
    assert list(headlines()["variable"]) == ["reg", "compare.first", "sequence"]
    assert list(headlines()["use"]) == ["used", "used", "undecided"]
    assert list(headlines()["reading"]) == ["read", "unread", ""]
    assert list(headlines()["is_readable"]) == ["yes", "no", "undecided"]
    assert list(tables.verdict_table(headlines())["read"]) == ["yes", "no", "undecided"]
    assert list(headlines()["finding"]) == ["read and used; later spent", "used, not read", "undecided"]
    assert (row_of("reg")["layer"], row_of("reg")["role"]) == (2, "stored")
    assert (row_of("compare.first")["layer"], row_of("compare.first")["role"]) == (1, "arose")


def test_a_headline_is_the_row_of_its_cell() -> None:
    for variable in ("reg", "compare.first"):
        row = row_of(variable)
        rows = made().verdicts
        (cell,) = rows[
            (rows.variable == variable)
            & (rows.layer == row["layer"])
            & (rows.role == row["role"])
            & (rows.span == "single")
        ].to_dict("records")
        assert cell["verdict"] == "used"
        assert [row[name] for name in ("accuracy", "d", "d_low", "pairs")] == [
            cell[name] for name in ("accuracy", "d", "d_low", "pairs")
        ]
        assert row["control_score"] == cell[cell["best_control"]]


def test_a_model_that_completes_too_little_keeps_an_explained_row() -> None:
    row = row_of("sequence")
    assert row["pairs"] == 0
    assert row["candidates"] == 300
    assert row["reason"].startswith("none of 300 pairs counts")
    (cells,) = tables.verdict_table(headlines())[["variable", "used", "counting pairs", "moved"]].to_dict("records")[2:]
    assert cells == {"variable": "sequence", "used": "undecided", "counting pairs": "0 of 300", "moved": ""}
    assert "none of its 300 pairs counts" in summary.sentence(row)


def test_holms_correction_goes_over_the_variables_that_are_tested_together() -> None:
    class Experiment:
        def __init__(self, table: tables.Tables) -> None:
            self.__dict__ |= table.__dict__

    several = tables.Tables.of({name: Experiment(made().only(name)) for name in made().variables})
    pd.testing.assert_series_equal(several.verdicts["p_holm"], made().verdicts["p_holm"])
    assert list(several.summary["variable"]) == made().variables
    assert list(several.summary["used"]) == ["used", "used", "undecided"]
    assert "none of 300 pairs counts" in several.summary["notes"].iloc[2]
    assert list(tables.headlines(several)["notes"]) == list(several.summary["notes"])
    alone = tables.Tables.of({"reg": Experiment(made().only("reg"))})
    assert alone.verdicts["p_holm"].iloc[0] <= several.verdicts["p_holm"].iloc[0]


def test_in_how_many_models() -> None:
    other = headlines().assign(use=["used", "unused", "undecided"], finding="x")
    table = tables.in_models({"one": headlines(), "two": other.iloc[:2]})
    assert list(table["variable"]) == ["reg", "compare.first", "sequence"]
    assert list(table["models"]) == [2, 2, 1]
    assert list(table["used"]) == [2, 1, 0]
    assert list(table["read"]) == [2, 0, 0]
    assert list(table["two"]) == ["x", "x", "not tested"]


def literal_beside(n_computed: int) -> pd.DataFrame:
    """Verdicts of compare.first, used where it arose: of digits, and of so many pairs that are computed."""
    cells = made().only("compare.first").verdicts
    computed = cells.assign(pairs=n_computed, verdict="undecided")
    return pd.concat([computed, cells.assign(stratum="literal")], ignore_index=True)


def test_too_few_computed_pairs_carry_no_headline() -> None:
    assert [tables.stratum(literal_beside(n)) for n in (0, 1, 29, 30)] == ["literal"] * 3 + ["computed"]


def test_a_digit_that_moves_answers_only_where_it_stands_is_not_called_used() -> None:
    cells = literal_beside(1)
    digits = tables.replace(made().only("compare.first"), verdicts=cells)
    (row,) = tables.headlines(digits).to_dict("records")
    assert (row["use"], row["only_input"], row["role"], row["layer"]) == ("undecided", True, "arose", 1)
    assert "used" not in row["finding"].split(",")[0]
    assert "moves the answer in 0.80" in summary.sentence(row)
    assert "moves the input itself" in summary.sentence(row)
    assert " use" not in summary.sentence(row)
    assert not (tables.headline_cells(cells)["verdict"] == "used").any()
    onward = cells["stratum"].eq("literal") & cells["layer"].eq(2) & cells["role"].eq("stored")
    moved_on = cells.assign(verdict=cells["verdict"].mask(onward & cells["span"].eq("single"), "used"))
    assert tables.of_stratum(moved_on, "literal")["use"] == "used"
    spread = cells.assign(verdict=cells["verdict"].mask(onward & cells["span"].eq("from"), "used"))
    assert tables.of_stratum(spread, "literal")["span"] == "from"


def test_nothing_is_said_not_to_be_read_where_nothing_was_tested() -> None:
    untested = made().only("compare.first").readable.assign(readable=None, read=None)
    assert tables._reading(untested)["reading"] == ""
    assert tables._reading(untested)["is_readable"] == "undecided"


def test_variables_that_were_not_tested_have_an_explained_row() -> None:
    table = tables.with_untested(headlines(), {"argument": "too few pairs"})
    assert list(table["variable"]) == [*headlines()["variable"], "argument"]
    assert table.iloc[-1][["use", "finding", "reason"]].tolist() == ["untested", "untested", "too few pairs"]
    assert tables.untested_rows({"argument": "too few pairs"})["where"].tolist() == ["too few pairs"]


# --- figures ---------------------------------------------------------------------------------------------------------


def marked(ax, word: str, roles: list[str], layers: list[int]) -> set[tuple[int, str]]:
    """The cells that carry a mark."""
    points = [p for mark in ax.collections if mark.get_gid() == word for p in mark.get_offsets()]
    return {(layers[int(np.floor(x + 0.5))], roles[int(np.floor(y + 0.5))]) for x, y in points}


@pytest.mark.parametrize("variable", ["reg", "compare.first", "sequence"])
def test_marks_of_a_map_are_its_claims(variable: str) -> None:
    part = made().only(variable)
    left, right = figures.maps(part.readable, part.verdicts).axes[:2]
    cells = part.verdicts[part.verdicts.span == "single"]
    roles = [label.get_text() for label in right.get_yticklabels()] or [
        label.get_text() for label in left.get_yticklabels()
    ]
    layers = [int(label.get_text()) for label in right.get_xticklabels()]
    for word in figures.VERDICT_MARKS:
        rows = cells[cells.claimed & (cells.verdict == word)]
        assert marked(right, word, roles, layers) == set(zip(rows.layer, rows.role)), word
    read = part.readable[part.readable["read"]]
    assert marked(left, "read", roles, layers) == set(zip(read.layer, read.role))
    only_readable = part.readable[part.readable["readable"] & ~part.readable["read"]]
    assert marked(left, "readable", roles, layers) == set(zip(only_readable.layer, only_readable.role))
    greyed = [patch for patch in right.patches if patch.get_gid() == "input"]
    assert len(greyed) == (1 if variable == "reg" else 0)


def test_planted_cells_are_the_marked_ones() -> None:
    cells = tables.headline_cells(made().verdicts)
    used = cells[cells.verdict == "used"]
    assert set(zip(used.variable, used.layer, used.role)) == set(MOVES)


def test_the_overview_shows_each_variable_with_its_numbers_and_words() -> None:
    figure = figures.overview(headlines())
    texts = [text.get_text() for ax in figure.axes for text in ax.texts]
    for row in headlines().to_dict("records"):
        assert words.capital(words.variable(row["variable"])) in texts
        assert row["finding"] in texts
    assert texts.count("readable ●  read ●  used ●") == 1
    assert texts.count("readable ○  read ○  used ●") == 1
    assert texts.count("readable –  read –  used –") == 1


def test_marks_of_heads_are_the_claims_of_the_table() -> None:
    ax = route_figures.heads(made().heads).axes[0]
    heads = [label.get_text() for label in ax.get_yticklabels()]
    variables = [label.get_text() for label in ax.get_xticklabels()]
    for name in ("attends", "needed"):
        points = [p for mark in ax.collections if mark.get_gid() == name for p in mark.get_offsets()]
        cells = [(variables[int(np.floor(x + 0.5))], heads[int(y)]) for x, y in points]
        assert cells == [("reg", "3.1")], name
    assert not [mark for mark in ax.collections if mark.get_gid() == "used"]
    assert row_of("reg")["heads"] == "3.1 (needed, load store)"
    assert row_of("compare.first")["heads"] == ""


def knocked_out() -> pd.DataFrame:
    """Edges that are needed, and edges whose controls were not run."""
    rows = [
        ("load_store", -1, 0.7, 0.02, True),
        ("operand", -1, 0.03, np.nan, False),
        ("load_store", 2, 0.4, 0.0, True),
    ]
    table = pd.DataFrame(rows, columns=["kind", "layer", "broken", "elsewhere", "needed"]).assign(
        variable="reg", pairs=50
    )
    bounds = {"broken_low": table.broken - 0.02, "broken_high": table.broken + 0.02, "no_flow": table.elsewhere}
    return table.assign(**bounds, head=-1, moved=[0.6, np.nan, np.nan], moved_control=[0.1, np.nan, np.nan])


def test_edges_are_filled_where_they_are_claimed_to_be_needed() -> None:
    left = route_figures.edges(knocked_out()).axes[0]
    drawn = {line.get_gid(): list(line.get_xdata()) for line in left.lines if line.get_gid() in ("needed", "open")}
    assert drawn == {"needed": [0.7], "open": [0.03]}  # all blocks at once; single ones are in the table


def test_mechanisms_are_said_in_words_that_fit_the_variable() -> None:
    columns = {"group": "all", "pairs": 50, "first": 1, "last": 2, "best": 1, "d": 0.5}
    rows = [("arose", "looked up at the load"), ("loaded", "looked up at the load")]
    table = pd.DataFrame(rows, columns=["role", "mechanism"]).assign(variable="reg", **columns)
    assert route_sections.mechanism_of(table) == "looked up at the load"
    never_loaded = table.assign(role=["arose", "consumed"])
    assert route_sections.mechanism_of(never_loaded) == "looked up where it is taken"
    assert route_sections.mechanism_of(table.assign(mechanism="both")).startswith("both tracked at the store and")
    assert route_sections.mechanism_of(table.assign(mechanism="undecided")) == ""
    assert len(route_figures.mechanism(table).axes) == 2


# --- sentences -------------------------------------------------------------------------------------------------------


def test_a_sentence_has_number_interval_control_and_pairs() -> None:
    row = row_of("reg")
    assert summary.sentence(row) == (
        "Exchanging the value of a register after block 2, where it is stored, moves the answer in "
        f"{with_interval(row['accuracy'], row['accuracy_low'], row['accuracy_high'])} of {row['pairs']} counting "
        f"pairs, against {with_interval(row['control_score'], row['control_score_low'], row['control_score_high'])} "
        f"{words.control(row['control'])} (d = {with_interval(row['d'], row['d_low'], row['d_high'])})."
    )
    assert summary.reading(row).endswith("which is surely beyond all of these.")
    controls = "0.30 in the untrained twin, 0.35 from the last tokens alone and 0.40 by a network on these tokens"
    assert (
        f"{with_interval(*(row[f'score{end}'] for end in ('', '_low', '_high')))} of the programs"
        in summary.reading(row)
    )
    assert f"against {controls}, which is" in summary.reading(row)
    assert summary.reading(row_of("sequence")).endswith("which is not surely beyond these.")
    assert summary.reading(row_of("compare.first")).endswith(
        "surely no more than 0.05 beyond all of these, as everywhere."
    )


def test_what_is_undecided_or_unused_is_not_called_used() -> None:
    row = {**row_of("reg"), "use": "undecided"}
    assert summary.sentence(row).startswith(
        "Whether the model uses the value of a register is not decided: at best, after"
    )
    assert summary.sentence({**row, "use": "unused"}).startswith("The model does not use the value of a register")


@pytest.mark.parametrize("reading", ["read", "readable", "unread", ""])
@pytest.mark.parametrize("use", ["used", "unused", "undecided"])
def test_every_finding_has_words(reading: str, use: str) -> None:
    text = words.finding(reading, use)
    assert ("not used" in text or "nor used" in text) == (use == "unused")
    assert (text == "undecided" or "use undecided" in text) == (use == "undecided")
    assert (text == "undecided" or "reading undecided" in text) == (reading == "")
    assert ("not read" in text or "neither read" in text) == (reading == "unread")


def test_what_is_written_as_digits_does_not_carry_the_headline() -> None:
    literal = headlines().assign(stratum=["computed", "literal", "computed"])
    assert list(summary.headline_rows(literal)["variable"]) == ["reg", "sequence"]
    assert len(summary.headline_rows(literal.assign(stratum="literal"))) == 3
    digits = made().only("compare.first").verdicts.assign(stratum="literal")
    row = tables.of_stratum(digits, "literal")
    assert summary.other_stratum(row).endswith("; there it moves the input itself.")
    assert summary.other_stratum({**row, "use": "undecided", "only_input": False}) == ""
    on = tables.strongest_cell(made().only("reg").verdicts.assign(stratum="literal"))
    assert (on["layer"], on["role"]) == (2, "stored")


def test_controls_that_were_not_run_are_explained() -> None:
    assert summary._moved({**row_of("reg"), "control_score": np.nan}).endswith(
        "too few successes for the controls to be run"
    )


def test_use_is_counted_over_the_models_in_which_it_was_tested() -> None:
    model = study.ModelResults("m", None, made(), headlines(), {})  # type: ignore[arg-type]
    without = headlines()[headlines()["variable"] != "compare.first"]
    other = study.ModelResults("n", None, made(), without, {})  # type: ignore[arg-type]
    results = study.InterventionsResults(study.InterventionsConfig(), (model, other))
    expected = "use is found for the value of a register in 2 of 2, the first number of a comparison in 1 of 1"
    assert expected in summary._several(results)


def test_a_reading_that_is_undecided_is_not_called_absent() -> None:
    used = headlines()[headlines()["use"] == "used"]
    assert "yet no linear probe reads it" in summary._readings(used)
    undecided = summary._readings(used.assign(reading=["read", ""]))
    assert undecided.endswith("whether a linear probe reads the first number of a comparison is undecided.")
    assert "no linear probe" not in undecided


def test_notes_name_the_spent_cells_of_the_map() -> None:
    cells = made().only("reg").verdicts
    spent = cells[(cells.verdict == "spent") & (cells.span == "single")]
    text = summary.notes(row_of("reg"), cells)
    assert text.startswith("It is spent, that is still readable while exchanges hardly change answers, ")
    for role in spent.role.unique():
        assert words.ROLES[role] in text
    assert "Only 30 of 300 pairs count" in summary.notes({**row_of("reg"), "pairs": 30}, cells)


# --- what only a full run has ----------------------------------------------------------------------------------------


def searched(illusion: bool = False) -> pd.DataFrame:
    """A search that finds all in two directions, and controls that find nothing."""
    rows = [
        {"method": method, "rank": rank, "accuracy": accuracy, "isolation": 1.0, "beyond_whole": np.nan}
        for method, rank, accuracy in (("search", 2, 0.9), ("whole component", 160, 0.8), ("arbitrary labels", 2, 0.1))
    ]
    rows[0]["beyond_whole"] = 0.1
    table = pd.DataFrame(rows).assign(variable="reg", layer=3, role="loaded", pairs=70, illusion=False, note="")
    for name in ("accuracy", "isolation", "beyond_whole"):
        table[f"{name}_low"], table[f"{name}_high"] = table[name] - 0.05, table[name] + 0.05
    table.loc[0, "illusion"] = illusion
    return table


def test_what_a_search_found_stands_beside_its_controls() -> None:
    sentence = full_sections.subspace_sentence(searched())
    assert sentence.startswith("The value of a register, after block 3, where it is loaded: exchanging two directions")
    for share in ("0.90 [0.85, 0.95] of 70 new pairs", "0.80 [0.75, 0.85]", "0.10 [0.05, 0.15]"):
        assert share in sentence
    assert "illusion" not in sentence
    assert "illusion" in full_sections.subspace_sentence(searched(illusion=True))
    silent = pd.DataFrame([{"variable": "reg", "method": "search", "note": "3 new pairs count"}])
    assert (
        full_sections.subspace_sentence(silent)
        == "Nothing was searched for of the value of a register: 3 new pairs count."
    )
    both = pd.concat([searched(), silent.assign(variable="sequence")], ignore_index=True)
    (section,) = full_sections.sections(tables.replace(made(), subspaces=both))
    assert section.display_table["what is exchanged"].tolist() == [
        full_sections.METHODS[method] for method in searched()["method"]
    ]
    assert section.display_table["beyond the whole"].tolist() == ["0.10 [0.05, 0.15]", "", ""]
    assert len(section.paragraphs) == 3


def test_attribution_is_shown_with_its_correlations() -> None:
    row = {
        "variable": "reg",
        "kind": "nodes",
        "component": "z",
        "pearson": 0.98,
        "spearman": 0.9,
        "cells": 40,
        "rows": 64,
    }
    table = pd.DataFrame([row]).assign(note="")
    for name in ("pearson", "spearman"):
        table[f"{name}_low"], table[f"{name}_high"] = table[name] - 0.05, table[name] + 0.01
    few = {"variable": "sequence", "kind": "nodes", "component": "all", "rows": 3, "note": "3 pairs count"}
    both = pd.concat([table, pd.DataFrame([few])], ignore_index=True)
    (section,) = full_sections.sections(tables.replace(made(), attribution=both))
    assert section.display_table["Pearson"].tolist() == ["0.98 [0.93, 0.99]"]
    assert "an element of a sequence (3 pairs count)" in section.paragraphs[1]
    assert full_sections.sections(made()) == ()
