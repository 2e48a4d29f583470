"""The state study on a small model: what the tables hold, how sites are chosen, and what the sentences claim."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from analyses.cli import main
from analyses.reporting import report
from analyses.reporting.sites import MAX_NAMED, SiteAxis, location_column, omitted_note
from analyses.studies.state import figures, study, summary
from analyses.studies.state import gaps as gaps_of_machines
from analyses.studies.state import page as state_page
from analyses.studies.state import tables as state_tables
from analyses.studies.state.study import DEPTHS, DISTANCES, LIVENESS, VARIABLES, StateConfig, StateResults
from cadmus.machine import tokens
from cadmus.machine.tokens import TOKEN_CLASSES
from cadmus.models import lens
from cadmus.states.variables import depends_on_future
from cadmus.training import checkpoint
from probes.data.activations import layer_of
from probes.data.examples import Examples, labelled
from probes.data.targets import Target
from probes.measurement.cells import CONTROLS_OF_CLASS
from probes.measurement.scores import CONTROLS, MARGIN, MAX_RISE
from tests.studies import FIRST, MICRO, SITES


@pytest.fixture(scope="module")
def results() -> StateResults:
    return study.run(StateConfig(MICRO, programs=400, sites=SITES, offsets=(-1, 2)))


@pytest.mark.slow
def test_tables_have_a_row_per_site_variable_offset_and_group(results: StateResults) -> None:
    scores = results.scores
    keys = ["site", "variable", "offset", "by", "group", "probe", "metric"]
    assert not scores.duplicated(keys).any()
    everywhere = scores[(scores.by == "all") & ~scores.probe.isin(["ridge", "network"])]
    assert len(everywhere) == len(SITES) * len(VARIABLES) * 3
    at_roles = scores[(scores.by == "role") & (scores.probe != "network")]
    assert len(at_roles) == len(SITES) * (5 * 4 + 2 * 3), "of registers and stack entries, the usual roles of each"
    networks = scores[scores.probe == "network"]
    assert set(networks.by) >= {"all", "role"}
    assert not networks[networks.by == "all"].variable.duplicated().any(), "each at one site"
    assert list(everywhere.site.unique()) == list(SITES)
    assert list(everywhere.variable.unique()) == list(VARIABLES)
    assert set(everywhere.offset) == {0, -1, 2}, "the present state is always among them"
    assert set(scores[scores.by != "all"].offset) == {0}
    known = [not depends_on_future(v, offset) for v, offset in zip(everywhere.variable, everywhere.offset, strict=True)]
    assert (everywhere.determined == known).all()
    assert set(scores[scores.probe == "ridge"].metric) == {"exact match", "R2"}
    for table in (
        scores,
        results.gaps,
        results.machines,
        results.numbers,
        results.residues,
        results.dimensions,
        results.readers,
    ):
        assert (table.run == results.trained.fingerprint).all()
        assert (table.corpus == results.trained.record["corpus"]["fingerprint"]).all()
        assert (table.seed == 0).all()
        assert table.test_programs.between(1, results.programs - 1).all()
        assert "programs" not in table, "which would be read as those drawn"


@pytest.mark.slow
def test_every_score_stands_beside_its_interval_and_controls(results: StateResults) -> None:
    rows = results.scores[results.scores.score.notna()]
    assert (rows.problem == "").all()
    assert (rows.low <= rows.score + 1e-9).all()
    assert (rows.score <= rows.high + 1e-9).all()
    assert (rows.clusters > 0).all()
    rows = rows[rows.metric != "R2"]
    assert rows[["score", "low", "high"]].stack().between(0, 1).all()
    controls = rows[["majority", "by token", "n-gram", "input, linear"]]
    assert controls.notna().all(axis=None)
    for probe_class, part in rows.groupby("probe_class"):
        own = part[list(CONTROLS_OF_CLASS[probe_class])].max(axis=1)
        assert (part.score - part.beyond).to_numpy() == pytest.approx(own.to_numpy())
        assert (part.score - part.beyond_all).to_numpy() == pytest.approx(part[list(CONTROLS)].max(axis=1).to_numpy())
    linear = rows.probe_class == "linear"
    assert (rows.embedding.isna() == ((rows.site == SITES[0]) | ~linear)).all()
    assert rows[(rows.offset == 0) & ~rows.as_number.astype(bool)][["rise", "rise_of_all"]].notna().all(axis=None)
    assert (rows.beyond_low <= rows.beyond + 1e-9).all()
    present = state_tables.headline(rows)
    assert present[["selectivity", "bits", "control_bits", "q", "p_somewhere"]].notna().all(axis=None)
    readable = rows[rows.readable.eq(True)]
    assert ((readable.beyond_low > MARGIN) & (readable.rise <= MAX_RISE) & (readable.screen == "")).all()
    assert rows[rows["read"].eq(True)].readable.all()
    assert rows[rows.claimed != ""].readable.all()


@pytest.mark.slow
def test_breakdowns_add_up_and_are_of_the_right_register(results: StateResults) -> None:
    rows = state_tables.main_probe(results.scores)
    rows = rows[(rows.offset == 0) & (rows.site == SITES[1])]
    names = {by: list(part.group.unique()) for by, part in rows.groupby("by")}
    assert set(names) == {"all", "role", "token class", "family", "stack depth", "live", "read distance"}
    assert set(names["token class"]) <= set(TOKEN_CLASSES)
    assert set(names["family"]) <= {family.name for family in FIRST.families}
    assert names["stack depth"] == [depth for depth in DEPTHS if depth in names["stack depth"]]
    assert set(names["live"]) == set(LIVENESS)
    assert set(names["read distance"]) <= set(DISTANCES)
    registers = rows[rows.by.isin(["live", "read distance"])]
    assert registers.variable.str.startswith("reg.").all()
    depth = rows[rows.variable == "depth"].set_index("by")
    whole = depth.loc["all"]
    kinds = depth.loc[["token class"]]
    assert kinds.tokens.sum() <= whole.tokens
    if kinds.tokens.sum() == whole.tokens:  # no class is too rare
        assert (kinds.score * kinds.tokens).sum() / kinds.tokens.sum() == pytest.approx(whole.score)


def test_groups_say_what_the_machine_does() -> None:
    """Of the first program register a is live until its last read, b is never read."""
    examples = Examples.of(tokens.encode(["3A5B7aa+6=.", "1A2Bab+3=.", "12<.", "4A4a=."]))
    breakdown = study._breakdown(examples, labelled(examples, [Target("depth")]))
    groups = breakdown.groups
    columns = list(dict.fromkeys((group.breakdown, group.register) for group in groups[1:]))

    def group(by: str, register: str = "") -> list[str | None]:
        codes = breakdown.codes[0, :, columns.index((by, register))]
        assert all((groups[code].breakdown, groups[code].register) == (by, register) for code in codes if code >= 0)
        return [groups[code].name if code >= 0 else None for code in codes]

    #                              .       3       A       5       B       7       a       a       +  6  =  .
    assert group("live", "a") == [*("dead",) * 2, *("live",) * 5, *("dead",) * 5]
    assert group("live", "b") == ["dead"] * 12
    assert group("read distance", "a") == [None, None, "4-7", "2-3", "2-3", "1", "1", *(None,) * 5]
    assert group("stack depth") == list("010101232322")
    assert group("token class")[1:5] == ["digit", "store", "digit", "store"]


@pytest.mark.slow
def test_alternative_machines_are_measured_beside_the_machine(results: StateResults) -> None:
    assert list(results.machines.name) == ["alternative 1", "alternative 2"]
    assert results.machines.distance.is_monotonic_increasing
    assert results.machines.distance.iloc[0] == pytest.approx(results.machines.distance.iloc[1] / 2, rel=0.5)
    assert set(results.gaps.machine) == set(results.machines.name)
    assert (results.gaps.differing >= 0.01).all()
    for name in ("selectivity", "alternative_selectivity", "gap"):
        assert (results.gaps[f"{name}_low"] <= results.gaps[name] + 1e-9).all()
        assert (results.gaps[name] <= results.gaps[f"{name}_high"] + 1e-9).all()
    assert results.gaps.gap.to_numpy() == pytest.approx(
        (results.gaps.selectivity - results.gaps.alternative_selectivity).to_numpy()
    )
    scores = state_tables.headline(results.scores)
    same = results.gaps.merge(scores, on=["site", "variable"])
    assert len(same) == len(results.gaps)
    assert same.selectivity_x.to_numpy() == pytest.approx(same.selectivity_y.to_numpy())


@pytest.mark.slow
def test_how_states_are_held_is_of_the_machines_own(results: StateResults) -> None:
    for table in (results.numbers, results.residues):
        assert set(table.variable) == {"stack.0.value"}
        assert set(zip(table.model, table.site, strict=True)) == set(product(("trained", "untrained"), SITES))
    assert set(results.dimensions.variable) <= set(VARIABLES)
    assert set(results.dimensions.probe) == {"reduced rank", "neurons"}
    trained, untrained = (results.dimensions[results.dimensions.model == name] for name in ("trained", "untrained"))
    assert trained.variable.tolist() == untrained.variable.tolist()
    assert (trained.full.to_numpy() != untrained.full.to_numpy()).all(), "different weights"


@pytest.mark.slow
def test_the_untrained_model_stands_beside_the_model(results: StateResults) -> None:
    """In the tables and in the figure, each at the site where the trained model is read best."""
    best = state_tables.best_sites(results.scores)
    cells = state_tables.residues(results.residues, results.scores).set_index("residue of the value by")
    rows = results.residues[results.residues.site == best["stack.0.value"]].set_index(["model", "period"])
    assert len(cells) == rows.index.get_level_values("period").nunique()
    for model, column in (("trained", "told correctly, of values held out"), ("untrained", "untrained model")):
        for period, row in rows.loc[model].iterrows():
            assert cells[column][period] == report.with_interval(row.score, row.low, row.high)
    cells = state_tables.dimensions(results.dimensions, results.scores).set_index("variable")
    full = results.dimensions.groupby(["variable", "site", "model"]).full.first()
    for variable, row in cells.iterrows():
        assert row["R² of the one-hot values"] == report.number(full[variable, best[variable], "trained"])
        assert row["untrained model"] == report.number(full[variable, best[variable], "untrained"])
    alone = results.residues[results.residues.model == "trained"]
    assert (state_tables.residues(alone, results.scores)["untrained model"] == "").all()
    axes = figures.numbers(results.numbers).axes
    hollow = [line for line in axes[0].lines if line.get_markerfacecolor() == "white"]
    part = results.numbers[(results.numbers.model == "untrained") & (results.numbers.k == results.numbers.k.min())]
    drawn = sorted(float(y) for line in hollow for y in line.get_ydata())
    assert drawn == pytest.approx(sorted(part.score))


@pytest.mark.slow
def test_each_table_of_how_integers_are_held_is_saved(results: StateResults, tmp_path) -> None:
    page = report.Report("held", ("held",), state_page.sections(results))
    report.write(page, tmp_path / "page")
    for name in ("numbers", "residues", "dimensions"):
        saved = pd.read_parquet(tmp_path / "page" / "tables" / f"{name}.parquet")
        assert list(saved.columns) == list(getattr(results, name).columns)
        assert len(saved) == len(getattr(results, name))
    text = (tmp_path / "page" / "report.md").read_text()
    assert "residue of the value by" in text.split("[CSV](tables/residues.csv)")[0].rsplit("\n## ", 1)[1]


@pytest.mark.slow
def test_sites_are_chosen_on_validation_programs(results: StateResults) -> None:
    rows = state_tables.headline(results.scores)
    worst = rows.validation.rank(method="first").to_numpy()  # the test scores have no say in it
    planted = results.scores.copy()
    planted.loc[rows.index, "score"] = -worst
    best = state_tables.best_sites(planted)
    for variable, part in rows.groupby("variable"):
        if part.score.notna().all():
            assert best[variable] == part.loc[part.validation.idxmax(), "site"]


def _cells_of(text: str) -> set[tuple[str, str, str]]:
    """(word, variable, group) of everything that a sentence claims."""
    found = set()
    for word, rest in re.findall(r"(read|readable) \(beyond [^)]*\): (.*?)(?=\. R|\.$|, as )", text, re.IGNORECASE):
        for phrase in rest.split("; "):
            variable, group = re.match(r"([\w.]+)(?: \d tokens? \w+)?(?:, ([^,]*),)? (?:after|at|in) ", phrase).groups()
            found.add((word.lower(), variable, (group or "all").removeprefix("token class ").removeprefix("family ")))
    return found


def _planted(results: StateResults) -> StateResults:
    """The same results with claims in some cells of every map."""
    scores = results.scores.copy()
    scores["claimed"] = ""
    rows = state_tables.main_probe(scores)
    rows = rows[rows.score.notna() & (rows.offset == 0)]
    for k, (_, part) in enumerate(rows.groupby("by", sort=False)):
        scores.loc[part.index[k::3], "claimed"] = "readable"
        scores.loc[part.index[k + 1 :: 5], "claimed"] = "read"
    return replace(results, scores=scores)


@pytest.mark.slow
@pytest.mark.parametrize("planted", [False, True])
def test_claims_are_the_same_in_table_figure_and_text(results: StateResults, planted: bool) -> None:
    """Each figure marks exactly the cells that the column claims, and the sentences of its section name just these."""
    results = _planted(results) if planted else results
    scores = results.scores
    sections = {section.name: section for section in state_page.sections(results)}
    drawn = {
        "state": (figures.maps(scores).axes[1:2], state_tables.headline(scores)),
        "roles": (figures.by_role(scores).axes, state_tables.at_roles(scores)),
        "token-classes": (figures.by_token_class(scores).axes, None),
        "families": (figures.by_family(scores, [f.name for f in FIRST.families]).axes, None),
    }
    for name, (axes, rows) in drawn.items():
        if rows is None and name == "families":
            rows = state_tables.breakdown(scores, "family")
        elif rows is None:
            rows = state_tables.main_probe(scores)
            rows = rows[(rows.by == "token class") & (rows.offset == 0) & rows.score.notna()]
        assert len(rows)
        for word in ("read", "readable"):
            expected = rows[rows.claimed == word]
            marks = [mark for ax in axes for mark in ax.collections if mark.get_gid() == word]
            assert sum(len(mark.get_offsets()) for mark in marks) == len(expected), (name, word)
        if name in ("roles", "token-classes"):
            for ax in axes:
                part = rows[(rows.variable == ax.get_title())]
                order, layers = list(part.group.unique()), sorted(rows.layer.unique())
                for word in ("read", "readable"):
                    offsets = [
                        xy for m in ax.collections if m.get_gid() == word for xy in m.get_offsets().data.tolist()
                    ]
                    found = {(order[int(y)], layers[int(x)]) for x, y in offsets}
                    cells = part[part.claimed == word]
                    assert found == set(zip(cells.group, cells.layer, strict=True))
        claimed = rows[rows.claimed != ""]
        text = next(paragraph for paragraph in sections[name].paragraphs if "claimed of" in paragraph.lower())
        assert _cells_of(text) == set(zip(claimed.claimed, claimed.variable, claimed.group, strict=True))
        assert (f"claimed of {len(claimed):,} of these {len(rows):,} cells" in text) == bool(len(claimed))
    texts = summary.summary(results)
    for rows, text in (
        (state_tables.headline(scores), texts[0]),
        (state_tables.at_roles(scores), texts[1]),
    ):
        claimed = rows[rows.claimed != ""]
        assert len(re.findall(r" against ", text)) == len(claimed.drop_duplicates(["claimed", "variable", "group"]))
        for row in claimed.itertuples():
            assert row.variable in text


@pytest.mark.slow
def test_sentences_agree_with_the_table(results: StateResults) -> None:
    scores = results.scores.copy()
    rows = state_tables.headline(scores)
    best = state_tables.best_sites(scores)
    scores["claimed"], scores["rise"] = "", 0.0
    planted = rows.index[(rows.variable == "depth") & (rows.site == best["depth"])]
    scores.loc[planted, ["score", "low", "high", "beyond_all", "best_of_all"]] = 0.91, 0.88, 0.93, 0.2, "n-gram"
    scores.loc[planted, "claimed"] = "read"
    texts = summary.summary(replace(results, scores=scores))
    place = "in the embedding" if best["depth"] == SITES[0] else "after layer 1"
    assert texts[0] == (
        f"1 of {len(VARIABLES)} variables is claimed over all tokens, as read (beyond every control): depth {place} "
        "(0.91 [0.88, 0.93] against 0.71 of n-gram)."
    )
    assert texts[1].startswith("At the tokens where the machine writes, holds, loads and uses a value 0 of ")
    assert texts[2].startswith("Over all tokens and by role nothing is claimed of all_true, stack.0.kind")
    at = state_tables.at_roles(scores)
    one = at.index[(at.variable == "stack.0.value") & (at.group == "arose") & (at.site == SITES[1])]
    scores.loc[one, ["score", "low", "high", "beyond", "best_control"]] = 0.8, 0.7, 0.9, 0.3, "untrained"
    scores.loc[one, "claimed"] = "readable"
    texts = summary.summary(replace(results, scores=scores))
    assert texts[1].endswith(
        "1 of " + texts[1].split("1 of ")[1].split(" variables")[0] + " variables by role is claimed, as readable "
        "(beyond the controls of the probe's own class): stack.0.value, arose, after layer 1 (0.80 [0.70, 0.90] "
        "against 0.50 of untrained)."
    )
    scores.loc[planted, ["claimed", "beyond_low", "rise", "screen", "clusters"]] = "", 0.2, 0.3, "", 40
    scores.loc[planted, "readable"] = False
    text = " ".join(summary.summary(replace(results, scores=scores)))
    assert "the score's lower bound lies more than 0.05 above the best control of the probe's class, and yet" in text
    assert "their controls still rise with the number of programs" in text


@pytest.mark.slow
def test_controls_are_named(results: StateResults) -> None:
    scores = results.scores.copy()
    scores["embedding"] = float("nan")
    sections = state_page.sections(replace(results, scores=scores))
    section = next(section for section in sections if section.name == "state")
    assert "embedding" not in section.display_table
    assert "the embedding" not in section.paragraphs[1]
    assert "the untrained model" in section.paragraphs[1]
    assert sections[0].name == "roles", "where the machine uses a value comes first"


INSIDE = ("blocks.0.attn.hook_z", "blocks.0.mlp.hook_post", "ln_final.hook_normalized")


@pytest.mark.slow
def test_sites_outside_the_residual_stream_go_by_their_names(tmp_path) -> None:
    page = state_page.make(StateConfig(MICRO, 300, ("stack.0", "depth"), INSIDE, (0,), machines=1), tmp_path / "page")
    tables = [line for line in page.with_name("report.md").read_text().splitlines() if line.startswith("| variable ")]
    assert len(tables) == 6
    for line in tables:
        assert "| site |" in line or "least squares" in line
        assert "layer" not in line
    names = page.parent / "tables"
    scores, gaps, numbers = (
        pd.read_parquet(names / f"{name}.parquet") for name in ("state", "alternative-machines", "numbers")
    )
    drawings = (
        figures.maps(scores),
        figures.by_token_class(scores),
        gaps_of_machines.by_layer(gaps),
        figures.numbers(numbers),
    )
    for figure in drawings:
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        renderer, (width, height) = canvas.get_renderer(), canvas.get_width_height()
        axes = [ax for ax in figure.axes if ax.get_label() != "<colorbar>"]
        labels = [label for ax in axes for label in ax.get_xticklabels() if label.get_visible()]
        assert {label.get_text() for label in labels} == set(INSIDE)
        for label in labels:
            box = label.get_window_extent(renderer)
            assert box.x0 >= 0
            assert box.y0 >= 0
            assert box.x1 <= width
            assert box.y1 <= height
        for ax in axes:
            assert ax.get_window_extent(renderer).height > 0.4 * figure.dpi, "room is left for the figure itself"


@pytest.mark.filterwarnings("error::UserWarning")  # what matplotlib says where not everything fits
@pytest.mark.slow
def test_figures_hold_all_variables_and_sites(results: StateResults) -> None:
    scores = results.scores
    one = scores[scores.site == SITES[1]]
    many = pd.concat([one.assign(site=f"blocks.{k}.hook_mlp_out") for k in range(MAX_NAMED + 1)], ignore_index=True)
    maps = figures.maps(many)
    FigureCanvasAgg(maps).draw()
    assert len(maps.axes) == 6, "too many sites for numbers in the cells: colours are explained"
    assert not any(ax.texts for ax in maps.axes)
    assert len(figures.maps(one).axes) == 5, "three maps and two bars"
    scores, dimensions = (
        pd.concat([table.assign(variable=table.variable + suffix) for suffix in ("", " 2", " 3")], ignore_index=True)
        for table in (scores, results.dimensions)
    )
    figure = figures.neurons(dimensions, scores)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    titles = {ax.get_title() for ax in figure.axes if ax.get_visible()}
    drawn = dimensions[(dimensions.full > 0.02) & (dimensions.model == "trained")]
    assert titles <= set(drawn.variable)
    assert {f"depth{suffix}" for suffix in ("", " 2", " 3")} <= titles
    (legend,) = figure.legends
    box, (width, height) = legend.get_window_extent(), canvas.get_width_height()
    assert box.x0 >= 0
    assert box.y0 >= 0
    assert box.x1 <= width
    assert box.y1 <= height
    assert figures.neurons(results.dimensions.assign(full=0.0), results.scores) is None


def test_an_axis_has_layers_where_these_name_the_sites() -> None:
    stream = ("blocks.0.hook_resid_pre", *(f"blocks.{k}.hook_resid_post" for k in range(3)))

    def table(*sites: str) -> pd.DataFrame:
        return pd.DataFrame({"site": sites, "layer": [layer_of(site) for site in sites]})

    axis = SiteAxis.of(table(*stream[::-1]))
    assert (axis.labels, axis.name) == ([0, 1, 2, 3], "layer (0: embedding)")
    assert axis.rows(table(*stream[::-1])).x.tolist() == [0, 1, 2, 3]
    mixed = SiteAxis.of(table(*stream[:2], *INSIDE))
    assert (mixed.labels, mixed.name) == ([*stream[:2], *INSIDE], "site")
    assert mixed.rows(table(*INSIDE, *stream[:2])).site.tolist() == [*stream[:2], *INSIDE]
    assert omitted_note(table(*stream[:2], *INSIDE)) == ""
    many = table(*stream, *(f"blocks.{k}.hook_mlp_out" for k in range(MAX_NAMED)))
    assert SiteAxis.of(many).sites == list(stream)
    assert omitted_note(many) == " 12 other sites are in the table only."
    assert SiteAxis.all(many).sites == list(many.site)
    assert list(location_column(table(*stream))) == ["layer"]
    assert list(location_column(table(*stream, INSIDE[0]))) == ["site"]


@pytest.mark.slow
def test_a_variable_that_never_has_a_value_is_reported(tmp_path) -> None:
    config = StateConfig(MICRO, 200, ("reg.a.value", "depth"), (SITES[1],), (0,), ("compare",), machines=0)
    page = state_page.make(config, tmp_path / "page").with_name("report.md").read_text()
    assert "0 of 2 variables are claimed over all tokens." in page
    problem = "0 training and 0 validation tokens; a probe needs 50 of each"
    assert f"These could not be measured: reg.a.value ({problem})." in page
    assert f"| reg.a.value | 0 | {problem} | 1 |" in page
    variables = "--variable reg.a.value --variable depth"
    rest = f"{variables} --site {SITES[1]} --family compare --offset 0 --machines 0"
    assert f"cadmus-probe probe {MICRO} --programs 200 --seed 0 {rest}" in page
    nothing = StateConfig(MICRO, 200, ("reg.a.value",), (SITES[1],), (0,), ("compare",), machines=0)
    page = state_page.make(nothing, tmp_path / "page").with_name("report.md").read_text()
    assert "reg.a.value is not claimed over all tokens." in page
    assert "![" not in page
    saved = pd.read_csv(tmp_path / "page" / "tables" / "state.csv")
    assert saved.problem.tolist() == [problem] * 6, "by the classifier, at four roles, and by the regression"


@pytest.mark.slow
def test_the_same_again() -> None:
    config = StateConfig(MICRO, 200, ("depth", "stack.0.value"), SITES, (0,), machines=1, seed=3)
    one, other = study.run(config), study.run(config)
    for name in ("scores", "gaps", "machines", "numbers", "dimensions"):
        pd.testing.assert_frame_equal(getattr(one, name), getattr(other, name))
    assert (one.scores.seed == 3).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variables": ("reg.e",)}, r"unknown variable 'reg\.e'; there are depth, all_true"),
        ({"variables": ("stack.0.kind.sign",)}, r"view of 'stack\.0\.kind', which is a category"),
        ({"sites": ("blocks.7.hook_resid_post",)}, r"blocks\.7\.hook_resid_post"),
        ({"sites": ("blocks.0.attn.hook_pattern",)}, r"number per head, query and key, not a row per token"),
        ({"families": ("stack",)}, r"mixture 'first' has no family 'stack'; it has compare, equality, register"),
        ({"device": "tpu"}, r"device 'tpu' is not there; this machine has cpu"),
        ({"probe": "nowhere.py:Probe"}, r"nowhere\.py"),
    ],
)
def test_what_does_not_exist_is_refused_before_any_work(
    options: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worked(*_: object, **__: object) -> None:
        raise AssertionError("work was done before")

    monkeypatch.setattr(study, "alternatives", worked)
    monkeypatch.setattr(study, "measure", worked)
    with pytest.raises((ValueError, OSError), match=message) as caught:
        study.run(StateConfig(MICRO, **options))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"programs": 199}, r"programs = 199 must be 200 or more"),
        ({"machines": -1}, r"machines = -1 must be 0 or more"),
        ({"variables": ()}, r"no variable is named; name one or more, such as stack\.0\.value"),
        ({"variables": ("depth", "depth")}, r"variables depth, depth name one twice; name each once"),
        ({"variables": ("reg.a", "reg.a.value")}, r"variables reg\.a\.value, reg\.a\.value name one twice"),
        ({"variables": ("stack.1.sign", "stack.1.value.sign")}, r"variables stack\.1\.sign, .* name one twice"),
        ({"sites": ("blocks.0.hook_mlp_out",) * 2}, r"sites .* name one twice"),
    ],
)
def test_configs_that_cannot_be_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StateConfig(**options)


@pytest.mark.slow
def test_short_names_are_made_whole() -> None:
    names = ("stack.0", "reg.b", "reg.c.value.mod3", "depth.parity", "reg.a.live", "reg.e", "stack.0.value.kind")
    whole = ("stack.0.value", "reg.b.value", "reg.c.mod3", *names[3:])
    assert StateConfig(variables=names).variables == whole
    results = study.run(StateConfig(MICRO, 300, ("stack.0",), (SITES[1],), (0,), machines=0))
    assert set(results.numbers.variable) == {"stack.0.value"}


def test_full_lists_everything() -> None:
    trained = checkpoint.load("cadmus-mini")
    config = StateConfig(full=True)
    sites, variables = study._sites(config, trained.model), study._variables(config)
    layers = trained.model.cfg.n_layers
    assert len(sites) == (layers + 1) + layers * 5
    assert set(sites) <= set(lens.check_readable(trained.model, None))
    assert set(VARIABLES) - {"needed.relation", "reg.a.parity"} <= set(variables)
    assert {"needed.relation", "needed.value", "reg.d.read_distance", "stack.3.length"} <= set(variables)
    targets = study._targets(config, variables, ["one", "two"])
    assert len(set(targets)) == len(targets)
    assert [t.variable for t in targets[: len(variables)]] == list(variables)
    assert {t.offset for t in targets} == set(study.OFFSETS)
    own = [t for t in targets if t.machine == "one"]
    assert len(own) == 2 * len(variables)
    assert {t.offset for t in own} == {0}


@pytest.mark.slow
def test_a_probe_of_ones_own(tmp_path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n\n\nclass Constant:\n    def fit(self, x, y):\n"
        "        self.value = np.bincount(y - y.min()).argmax() + y.min()\n        return self\n"
        "    def predict(self, x):\n        return np.full(len(x), self.value)\n"
    )
    options = ["--programs", "200", "--machines", "0", "--offset", "0", "--variable", "depth", "--variable", "all_true"]
    probe = f"{tmp_path / 'mine.py'}:Constant"
    assert main(["probe", MICRO, "--probe", probe, "--out", str(tmp_path / "page"), *options]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "page" / "index.html")
    scores = pd.read_parquet(tmp_path / "page" / "tables" / "state.parquet")
    assert scores.score.to_numpy() == pytest.approx(scores.majority.to_numpy())
    page = (tmp_path / "page" / "report.md").read_text()
    assert f"--variable depth --variable all_true --offset 0 --machines 0 --probe {probe}" in page
    assert f"The probe {probe}, of which a copy" in page
    assert "The embedding, the untrained model, permuted labels and the states of other machines are read by" in page
    assert "discriminant" not in page


MINE = """
from cadmus.machine import kernel, tokens

def total(traces):
    two = traces.stack[:, :, :2]
    return two.value.sum(2), (two.kind == kernel.INT_KIND).all(2)

def depth_at_digits(traces, programs):
    return traces.depth, tokens.classes(programs) == 0

def raises(traces):
    return traces.nothing
"""


@pytest.mark.slow
def test_variables_and_roles_of_ones_own(tmp_path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    mine, out = f"{tmp_path / 'mine.py'}:", ["--out", str(tmp_path / "page")]
    options = ["--programs", "250", "--machines", "0", "--offset", "0", "--site", SITES[1], "--where", "consumed"]
    named = ["--variable", f"{mine}total", "--variable", f"{mine}depth_at_digits", "--variable", "stack.0.value"]
    assert main(["probe", MICRO, *named, *options, *out]) == 0
    scores = pd.read_parquet(tmp_path / "page" / "tables" / "state.parquet")
    rows = state_tables.main_probe(scores)
    assert list(state_tables.headline(scores).variable) == ["total", "depth_at_digits", "stack.0.value"]
    assert set(rows[rows.by == "role"].group) == {"consumed"}
    assert set(rows[rows.by == "role"].variable) == {"total", "depth_at_digits", "stack.0.value"}
    assert rows[(rows.by == "role") & (rows.variable == "total")].selectivity.notna().all()
    page = (tmp_path / "page" / "report.md").read_text()
    assert f"--variable {mine}total --variable {mine}depth_at_digits --variable stack.0.value --where consumed" in page
    assert page.index("Where the machine writes") < page.index("Which variables are readable")
    capsys.readouterr()
    wrong = {
        ("--variable", f"{mine}raises"): "raises raised AttributeError",
        ("--variable", f"{mine}none"): "mine.py has no 'none'",
        ("--where", "load"): "role 'load' is unknown; there are arose, stored, between, loaded, consumed",
        ("--variable", "reg.d", "--where", "loaded", "--family", "compare"): "no program has reg.d.value in the role",
    }
    for words, message in wrong.items():
        assert main(["probe", MICRO, *words, *options[:-2], *out]) == 2
        error = capsys.readouterr().err
        assert message in error.replace("\n", " "), error


PROBES = """
import numpy as np

class ridge:
    def fit(self, x, y):
        self.coef = np.linalg.lstsq(x, y, rcond=None)[0]
    def predict(self, x):
        return x @ self.coef

class Raises(ridge):
    def fit(self, x, y):
        raise RuntimeError("no such\\nluck | today")

class Fussy(ridge):
    def fit(self, x, y):
        assert y.min() >= 0
        super().fit(x, y)

class Nothing(ridge):
    def predict(self, x):
        return np.full(len(x), np.nan)
"""


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[str, pd.DataFrame]]:
    """The page, as Markdown, and the table of one of `PROBES`."""
    folder = tmp_path_factory.mktemp("probed")
    (folder / "mine.py").write_text(PROBES)

    def page(name: str) -> tuple[str, pd.DataFrame]:
        probe, variables = f"{folder / 'mine.py'}:{name}", ("depth", "stack.0.value")
        config = StateConfig(MICRO, 300, variables, SITES, (0,), machines=0, probe=probe)
        path = state_page.make(config, folder / name)
        return path.with_name("report.md").read_text(), pd.read_parquet(folder / name / "tables" / "state.parquet")

    return page


@pytest.mark.slow
def test_a_probe_may_be_called_as_ours_is(probed: Callable) -> None:
    page, table = probed("ridge")
    assert set(table.probe) == {"ridge"}
    assert set(state_tables.headline(table).variable) == {"depth", "stack.0.value"}
    assert "0 of 2 variables are claimed over all tokens." in page
    assert "](figures/state.png)" in page


@pytest.mark.slow
def test_a_probe_that_raises_everywhere_is_said_to(probed: Callable) -> None:
    page, table = probed("Raises")
    why = "RuntimeError: no such luck | today"
    assert f"- The probe failed: depth at 2 of 2 sites ({why}); stack.0.value at 2 of 2 sites ({why}).\n" in page
    assert "These could not be measured" not in page
    assert r"| depth | 0 | RuntimeError: no such luck \| today | 2 |" in page
    assert table.problem.str.startswith("RuntimeError: no such").all()
    assert len(table) == 2 * (2 + 3), "at both sites two variables, and one of them at three roles"
    assert "(tables/state.csv)" in page
    assert summary.one_line("one\ntwo" + 300 * "x") == "one two" + 193 * "x" + " …"


@pytest.mark.slow
def test_a_probe_that_raises_for_one_variable_is_said_to(probed: Callable) -> None:
    page, table = probed("Fussy")
    assert "The probe failed: stack.0.value at 2 of 2 sites (AssertionError" in page
    assert (table[table.variable == "depth"].problem == "").all()


@pytest.mark.slow
def test_a_probe_that_reads_nothing_is_said_to(probed: Callable) -> None:
    page, table = probed("Nothing")
    tokens = table[table.by == "all"].groupby("variable").tokens.first()
    places = "; ".join(f"{v} at 2 of 2 sites (at {n} of {n} test tokens)" for v, n in tokens.items())
    assert f"- Nothing is read, which counts as wrong: {places}.\n" in page
    assert "the same probe on the" not in page, "neither the embedding nor the untrained model reads anything"
