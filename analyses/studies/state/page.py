"""The state report as a page: which variables are readable where, and beyond which controls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from analyses.reporting import report
from analyses.reporting.sites import location_column, omitted_note
from analyses.studies.state import claims, figures, gaps, probe_comparison, study, tables
from analyses.studies.state.study import StateConfig, StateResults
from analyses.studies.state.summary import controls, one_line, summary
from cadmus.runtime.progress import Progress, no_progress
from probes.measurement.passes import SAMPLE_ROWS


def make(config: StateConfig, out: Path | str, progress: Progress = no_progress) -> Path:
    """Measure and write the page, its figures and tables to `out`; returns the page's path."""
    results = study.run(config, progress)
    title = f"The machine's state in the activations of {Path(config.run).name}"
    page = report.Report(title, summary(results), sections(results), provenance(results))
    return report.write(page, out)


def provenance(results: StateResults) -> dict[str, str]:
    """How the tables were made."""
    return {
        "state, command": _command(results.config),
        "state, programs": f"{results.programs:,} of unseen skeletons; probes are judged on a quarter of the skeletons",
        "model": results.trained.fingerprint,
    }


def _command(config: StateConfig) -> str:
    """The command that makes the same tables again; options at their defaults are omitted."""
    words = ["cadmus-probe probe", config.run, f"--programs {config.programs} --seed {config.seed}"]
    default = StateConfig()
    for option in ("variable", "where", "site", "family", "offset"):
        field = {"family": "families", "where": "where"}.get(option, f"{option}s")
        if getattr(config, field) != getattr(default, field):
            words += [f"--{option} {value}" for value in getattr(config, field)]
    if config.machines != default.machines:
        words.append(f"--machines {config.machines}")
    if config.probe:
        words.append(f"--probe {config.probe}")
    if config.full:
        words.append("--full")
    return " ".join(words)


def sections(results: StateResults) -> tuple[report.Section, ...]:
    """The sections of the page; those without data are left out."""
    candidates = (
        _roles(results),
        _map(results),
        _token_classes(results.scores),
        _breakdowns(results.scores),
        _offsets(results.scores),
        _families(results),
        _gaps(results),
        _probe_comparison(results),
        _numbers(results),
        _residues(results),
        _dimensions(results),
        _problems(results.scores),
    )
    return tuple(section for section in candidates if section is not None)


_PROBE = "A linear probe per variable and site, a discriminant classifier over categories or over a number's values"
_CUSTOM_PROBE = (
    "The probe {}, of which " + f"a copy per variable and site is fitted on about {SAMPLE_ROWS:,} training tokens"
)
_CONTROLS_OF_CUSTOM_PROBE = (
    " The embedding, the untrained model, permuted labels and the states of other machines are read by that probe as "
    "well. The controls that read the input, and the code length, are not its own: they are those of every such page."
)
_CONTROLS = {
    "majority": "the best constant",
    "by token": "the best constant given the token",
    "n-gram": "a trigram",
    "input, linear": "a linear probe on the last eight tokens and the position",
    "input, nonlinear": "a small network on those",
    "embedding": "the same probe on the embedding",
    "untrained": "the same probe on the untrained model at the same site",
}


def _roles(results: StateResults) -> report.Section | None:
    rows = tables.at_roles(results.scores)
    if rows.empty:
        return None
    return report.Section(
        "roles",
        "Where the machine writes, loads and uses it",
        (
            "A register matters where it is stored, held, loaded and used, a stack entry where it arose, was loaded "
            "and is taken. Here probes are fitted and judged at the tokens of one such role alone; at a load the "
            "variable of a register is the value that is loaded. Each cell is the score beyond the best control of the "
            "probe's own class at the same tokens.",
            claims.sentence(rows),
        ),
        figure=figures.by_role(results.scores),
        caption=f"Score minus best control of the probe's class; {claims.LEGEND}. The table has each variable and role "
        "at the site that reads most on validation programs; what is consumed is the operand before the instruction."
        + omitted_note(rows),
        display_table=_role_table(results.scores),
    )


def _role_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Lay out each variable and role at its site, beside the best control of its class and of all."""
    rows = tables.best_of_roles(scores)
    return pd.DataFrame(
        {
            "variable": rows.variable,
            "role": rows.group,
            **location_column(rows),
            "test tokens": rows.tokens,
            "score": [report.with_interval(row.score, row.low, row.high) for row in rows.itertuples()],
            "best of its class": _best(rows, "best_control", "beyond"),
            "beyond it": report.intervals(rows, "beyond"),
            "best of all controls": _best(rows, "best_of_all", "beyond_all"),
            "beyond all": report.intervals(rows, "beyond_all"),
            "network (beyond networks)": tables.networks(scores, rows),
            "claimed": rows.claimed,
        }
    )


def _best(rows: pd.DataFrame, control: str, beyond: str) -> list[str]:
    """The best control by name with its score."""
    return [f"{name} {score:.2f}" for name, score in zip(rows[control], rows.score - rows[beyond], strict=True)]


def _map(results: StateResults) -> report.Section:
    rows = tables.headline(results.scores)
    everywhere = rows[rows.score.notna()]
    rows = tables.at_best_sites(everywhere, results.scores)
    title = "Which variables are readable, and where"
    if rows.empty:
        return report.Section("state", title, ("No variable could be measured at any site.",), table=results.scores)
    names = controls(rows)
    custom = results.config.probe
    probe = _CUSTOM_PROBE.format(custom) if custom else _PROBE
    return report.Section(
        "state",
        title,
        (
            f"{probe}, reads the machine's state after the current token, at every token of programs whose skeletons "
            "neither the model nor the probe was trained on. What is drawn is the share read exactly.",
            "The other maps are the score minus the best of the controls on the same tokens: "
            f"{'; '.join(_CONTROLS[name] for name in names)}. "
            + (
                _CONTROLS_OF_CUSTOM_PROBE
                if custom
                else "The first of them leaves out the network, which computes what no linear probe can. "
            )
            + "Where it is not above 0 the probe reads what the input gives away, or what any random network computes.",
            claims.sentence(everywhere),
        ),
        figure=figures.maps(results.scores),
        caption=f"All tokens are pooled: digits print the top of the stack, so that the other maps ask more than the "
        f"left; {claims.LEGEND}. The table has each variable at the site that reads most on validation programs. rise: "
        "what the best control of the probe's class would gain, had each gained as much again as the second half of "
        "the programs brought; q: Benjamini-Hochberg over the map; selectivity: score minus that on labels permuted "
        "within (token, previous token); bits saved: online code length per label without activations minus that with "
        "them, and the same of the permuted labels.",
        table=results.scores,
        display_table=_scores(results.scores, rows, names),
    )


def _scores(scores: pd.DataFrame, rows: pd.DataFrame, controls: list[str]) -> pd.DataFrame:
    """Lay out each variable's score at its site beside the controls."""
    return pd.DataFrame(
        {
            "variable": rows.variable,
            **location_column(rows),
            "score": [report.with_interval(row.score, row.low, row.high) for row in rows.itertuples()],
            **{name: rows[name].map(report.number) for name in controls},
            "beyond the best of its class": report.intervals(rows, "beyond"),
            "rise": rows.rise.map(report.number),
            "beyond all": report.intervals(rows, "beyond_all"),
            "network (beyond networks)": tables.networks(scores, rows),
            "q": rows.q.map("{:.3f}".format),
            "selectivity": rows.selectivity.map(report.number),
            "bits saved (permuted)": [
                f"{row.frequency_bits - row.bits:.2f} ({row.control_frequency_bits - row.control_bits:.2f})"
                for row in rows.itertuples()
            ],
            "given away": rows.screen,
            "claimed": rows.claimed,
        }
    )


def _token_classes(scores: pd.DataFrame) -> report.Section | None:
    if tables.breakdown(scores, "token class").empty:
        return None
    rows = tables.main_probe(scores)
    rows = rows[(rows.by == "token class") & (rows.offset == 0) & rows.score.notna()]
    return report.Section(
        "token-classes",
        "After which tokens",
        (
            "The same probes are judged by the class of the current token. Each cell is the score beyond the best "
            "control of the probe's class, which is chosen for each. After an operator the top of the stack is no "
            "token of the input: it was computed.",
            claims.sentence(rows),
        ),
        figure=figures.by_token_class(scores),
        caption="Score minus best control of the probe's class; classes with fewer than 20 test tokens are left out; "
        f"{claims.LEGEND}." + omitted_note(scores),
    )


def _breakdowns(scores: pd.DataFrame) -> report.Section | None:
    figure = figures.by_depth_and_distance(scores)
    if figure is None:
        return None
    return report.Section(
        "depth",
        "How deep, and how long ago",
        (
            "The share read at each variable's site is drawn by stack depth, and that of registers by how soon they "
            "are read again.",
            claims.sentence(figures.drawn_by_depth_and_distance(scores)),
        ),
        figure=figure,
        caption="Filled: the probe, with its 95 % interval; hollow: the best control of its class there; a dark point "
        "within: claimed as read, a white one: as readable. dead: overwritten before it is read, or never read.",
    )


def _offsets(scores: pd.DataFrame) -> report.Section | None:
    if scores[scores.score.notna()].offset.nunique() < 2:
        return None
    return report.Section(
        "offsets",
        "Past, present and future",
        (
            "The probe reads the state some tokens back or ahead. A state ahead is not determined by the prefix; there "
            "the best control (often the trigram) is a lower estimate of what can be known.",
            claims.sentence(tables.by_offset(scores)),
        ),
        figure=figures.by_offset(scores),
        caption="The site of each variable is that of its present state. A dark point within: claimed as read, a white "
        "one: as readable.",
    )


def _families(results: StateResults) -> report.Section | None:
    if tables.breakdown(results.scores, "family").empty:
        return None
    families = results.config.families or [family.name for family in results.trained.mixture.families]
    return report.Section(
        "families",
        "By family of programs",
        (
            "Each cell is the score beyond the best control of the probe's class at the variable's site, judged on the "
            "programs of one family.",
            claims.sentence(tables.breakdown(results.scores, "family")),
        ),
        figure=figures.by_family(results.scores, families),
        caption=f"Empty: the family has fewer than 20 such test tokens; {claims.LEGEND}.",
    )


def _gaps(results: StateResults) -> report.Section | None:
    if results.gaps.empty:
        return None
    machines = "; ".join(
        f"{row.name}: {row.moved} (distance {row.distance:.2f})" for row in results.machines.itertuples(index=False)
    )
    return report.Section(
        "alternative-machines",
        "Represented, or computed by the probe?",
        (
            "The same probe is retrained on the states that other machines have on the same programs (Jin & Rinard, "
            "arXiv 2305.11169). They give instructions the meanings of others of their type, and their labels are "
            "about as uncertain. A probe that computes the state itself would read theirs as well. What they "
            f"exchange: {machines}.",
        ),
        figure=gaps.by_layer(results.gaps),
        caption="Selectivity: score minus that on permuted labels. Variables whose states no machine changes are left "
        "out. Bands, or bars: 95 %." + omitted_note(results.gaps),
        table=results.gaps,
        display_table=gaps.display_table(gaps.by_distance(results)),
    )


def _probe_comparison(results: StateResults) -> report.Section | None:
    if results.readers.empty:
        return None
    table = results.readers.assign(
        accuracy=[report.with_interval(row.score, row.low, row.high) for row in results.readers.itertuples()]
    )
    cells = table.pivot(index="variable", columns="probe", values="accuracy")
    cells = cells.reindex(table.variable.unique())[list(table.probe.unique())]
    return report.Section(
        "readers",
        "By which probe",
        (
            "The same variables at the same sites are each read by several classifiers, fitted to the same "
            f"{probe_comparison.ROWS['train']:,} training tokens or fewer: least squares, discriminant and logistic, "
            "all linear, and a network with one hidden layer. What the network reads beyond the logistic probe is "
            "there, but not linearly, or is computed by the network.",
        ),
        caption="Share of test tokens read rightly, with its 95 % interval over skeletons.",
        table=results.readers,
        display_table=cells.reset_index(),
    )


def _numbers(results: StateResults) -> report.Section | None:
    if results.numbers.empty:
        return None
    return report.Section(
        "numbers",
        "How integers are held",
        (
            "Functions of the value, as many of each kind, are fitted to the mean activation of most values and judged "
            "on the values left out: polynomials; sign and magnitude; digits; a circle and its harmonics; Fourier "
            "pairs of several periods; a helix (the number itself with circles, arXiv 2502.00873). Nine functions can "
            "imitate one another; three tell the kinds apart. What the untrained model shows as well, training did not "
            "bring about.",
        ),
        figure=figures.numbers(results.numbers),
        caption="Filled: the model; hollow: the model before its training. The sampling variance of the means is "
        "subtracted, so that 1 is all there is; the axis is cut. Bars: 95 % over the values held out."
        + omitted_note(results.numbers),
        table=results.numbers,
    )


def _residues(results: StateResults) -> report.Section | None:
    if results.residues.empty:
        return None
    return report.Section(
        "residues",
        "Which residues of integers can be told",
        (
            "A linear classifier tells the residue of a value held out from its mean activation, at the site where the "
            "variable is read best; beside it stands the same in the untrained model at that site.",
        ),
        table=results.residues,
        display_table=tables.residues(results.residues, results.scores),
    )


def _dimensions(results: StateResults) -> report.Section | None:
    table = results.dimensions
    if table.empty:
        return None
    return report.Section(
        "dimensions",
        "How many dimensions, how many neurons",
        (
            "The figure has the best probe of each rank, and the best of few coordinates of the site, chosen "
            "greedily on training programs and judged on validation programs. What the probe without a limit "
            "explains in the untrained model at the same site stands beside it.",
        ),
        figure=figures.neurons(table, results.scores),
        caption="Of the trained model: the share of the R² on validation programs that the probe without a limit has; "
        "dotted: 95 % of it. Variables of which that explains less than "
        f"{figures.MIN_EXPLAINED:.0%} are left out.",
        table=table.assign(neurons=table.neurons.map(_neuron_list)),
        display_table=tables.dimensions(table, results.scores),
    )


def _neuron_list(neurons: Any) -> str:
    """The neurons of a row in a cell that CSV and Parquet hold; empty where the row is not about neurons."""
    return " ".join(map(str, neurons)) if pd.api.types.is_list_like(neurons) else ""


def _problems(scores: pd.DataFrame) -> report.Section | None:
    rows = scores[(scores.problem != "") & (scores.by == "all")]
    if rows.empty:
        return None
    rows = rows.assign(problem=rows.problem.map(one_line))
    sites = rows.groupby(["variable", "offset", "problem"], sort=False).site.nunique().reset_index()
    return report.Section(
        "problems",
        "What could not be measured",
        ("These cells have no score; all others are unaffected.",),
        display_table=sites.rename(columns={"site": "sites"}).astype(str),
    )
