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
            "A register matters where the machine stores, holds, loads and uses it, a stack entry where it arises, is "
            "loaded and is taken. These probes are fitted and judged at the tokens of one such role alone; at a load "
            "the variable of a register is the value that is loaded. Each cell shows the score minus that of the best "
            "control of the probe's own class at the same tokens.",
            claims.sentence(rows),
        ),
        figure=figures.by_role(results.scores),
        caption=f"Score minus best control of the probe's class{claims.legend(rows)}. The table shows each variable "
        "and role at the site that reads most on validation programs; what is consumed is the operand before the "
        "instruction." + omitted_note(rows),
        alt=claims.described(rows, "roles of each variable", "layer"),
        display_table=tables.role_table(results.scores),
        columns=("variable", "role", *location_column(rows), "score", "best of all controls", "beyond all", "claimed"),
    )


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
            "neither the model nor the probe was trained on. The left map shows the share that is read exactly.",
            "The other two maps show the score minus that of the best control on the same tokens. The controls are "
            f"{'; '.join(_CONTROLS[name] for name in names)}. "
            + (
                _CONTROLS_OF_CUSTOM_PROBE
                if custom
                else "The middle map leaves out the network, which computes what no linear probe can. "
            )
            + "Where a difference is not above 0, the probe reads what the input gives away, or what any random "
            "network computes.",
            claims.sentence(everywhere),
        ),
        figure=figures.maps(results.scores),
        caption="All tokens are pooled; since digits print the top of the stack, the other maps ask more than the left"
        f"{claims.legend(everywhere)}. The table shows each variable at the site that reads most on validation "
        "programs. rise: what the best control of the probe's class would gain if it gained as much again as the "
        "second half of the programs brought; q: Benjamini-Hochberg over the map; selectivity: the score minus that on "
        "labels permuted within (token, previous token); bits saved: the online code length per label without "
        "activations minus that with them, and the same for permuted labels.",
        alt=claims.described(everywhere, "variables", "layer"),
        table=results.scores,
        display_table=tables.score_table(results.scores, rows, names),
        columns=("variable", *location_column(rows), "score", "untrained", "beyond all", "claimed")
        if "untrained" in names
        else ("variable", *location_column(rows), "score", "beyond all", "claimed"),
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
            "The same probes are judged by the class of the current token. Each cell shows the score minus that of the "
            "best control of the probe's class, which is chosen for each cell. After an operator the top of the stack "
            "is no token of the input: it was computed.",
            claims.sentence(rows),
        ),
        figure=figures.by_token_class(scores),
        caption="Score minus best control of the probe's class. Classes with fewer than 20 test tokens are left out"
        f"{claims.legend(rows)}." + omitted_note(scores),
        alt=claims.described(rows, "classes of tokens of each variable", "layer"),
    )


def _breakdowns(scores: pd.DataFrame) -> report.Section | None:
    figure = figures.by_depth_and_distance(scores)
    if figure is None:
        return None
    rows = figures.drawn_by_depth_and_distance(scores)
    return report.Section(
        "depth",
        "How deep, and how long ago",
        (
            "How much is read at each variable's site depends on how deep the stack is and, for registers, on how soon "
            "they are read again.",
            claims.sentence(rows),
        ),
        figure=figure,
        caption="Filled: the probe, with its 95 % interval; hollow: the best control of its class"
        f"{_point_legend(rows)}. dead: overwritten before it is read, or never read.",
        alt=f"Points with intervals for {rows.variable.nunique()} variables by stack depth, by tokens to the next read "
        f"and by liveness, from {rows.score.min():.2f} to {rows.score.max():.2f}, beside their best controls.",
    )


def _point_legend(rows: pd.DataFrame) -> str:
    """What the marks within points mean, of those that a figure of these rows has."""
    marks = {"read": "a black centre: claimed as read", "readable": "a white centre: claimed as readable"}
    return "".join(f"; {text}" for word, text in marks.items() if len(claims.with_claims(rows, word)))


def _offsets(scores: pd.DataFrame) -> report.Section | None:
    if scores[scores.score.notna()].offset.nunique() < 2:
        return None
    rows = tables.by_offset(scores)
    return report.Section(
        "offsets",
        "Past, present and future",
        (
            "These probes read the state some tokens back or ahead. The prefix does not determine a state ahead; there "
            "the best control (often the trigram) is a lower estimate of what can be known.",
            claims.sentence(rows),
        ),
        figure=figures.by_offset(scores),
        caption=f"The site of each variable is that of its present state{_point_legend(rows)}.",
        alt=f"A panel for each of {rows.variable.nunique()} variables: the probe's score and its best control, from "
        f"{rows.offset.min()} tokens back to {rows.offset.max()} ahead.",
    )


def _families(results: StateResults) -> report.Section | None:
    if tables.breakdown(results.scores, "family").empty:
        return None
    families = results.config.families or [family.name for family in results.trained.mixture.families]
    rows = tables.breakdown(results.scores, "family")
    return report.Section(
        "families",
        "By family of programs",
        (
            "Each cell shows the score minus that of the best control of the probe's class at the variable's site, "
            "judged on the programs of one family.",
            claims.sentence(rows),
        ),
        figure=figures.by_family(results.scores, families),
        caption=f"A cell is empty where the family has fewer than 20 such test tokens{claims.legend(rows)}.",
        alt=claims.described(rows, "variables", "family of programs"),
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
            "arXiv 2305.11169). These machines give instructions the meanings of others of their type, and their "
            "labels are about as uncertain. A probe that computed the state itself would read theirs equally well. "
            f"They exchange: {machines}.",
        ),
        figure=gaps.by_layer(results.gaps),
        caption="Selectivity is the score minus that on permuted labels. Variables whose states no machine changes are "
        "left out. Bands, or bars: 95 % intervals." + omitted_note(results.gaps),
        alt=f"A panel for each of {results.gaps.variable.nunique()} variables: selectivity by layer for the machine's "
        f"states and for those of {results.gaps.machine.nunique()} other machines.",
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
            "Several classifiers read the same variables at the same sites, fitted to the same "
            f"{probe_comparison.ROWS['train']:,} training tokens or fewer: least squares, discriminant and logistic "
            "regression, which are linear, and a network with one hidden layer. What the network reads beyond the "
            "logistic probe is either held nonlinearly or computed by the network.",
        ),
        caption="Share of test tokens read correctly, with its 95 % interval over skeletons.",
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
            "Functions of the value, equally many of each kind, are fitted to the mean activations of most values and "
            "judged on the values left out: polynomials; sign and magnitude; digits; a circle and its harmonics; "
            "Fourier pairs of several periods; a helix (the number itself with circles, arXiv 2502.00873). Nine "
            "functions can imitate one another; three tell the kinds apart. Training did not bring about what the "
            "untrained model shows too.",
        ),
        figure=figures.numbers(results.numbers),
        caption="Filled: the model; hollow: the model before its training. The sampling variance of the means is "
        "subtracted, so that an R² of 1 explains everything else; the axis is cut. Bars: 95 % intervals over the "
        "values held out." + omitted_note(results.numbers),
        alt=f"R² by layer for {results.numbers.basis.nunique()} kinds of functions of "
        f"{', '.join(results.numbers.variable.unique())}, in the model and in its untrained twin.",
        table=results.numbers,
    )


def _residues(results: StateResults) -> report.Section | None:
    if results.residues.empty:
        return None
    return report.Section(
        "residues",
        "Which residues of integers can be told",
        (
            "A linear classifier tells the residue of a held-out value from the value's mean activation, at the site "
            "where the variable is read best. The untrained model at the same site is its control.",
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
            "The figure shows the best probe of each rank, and the best probe on few coordinates of the site, chosen "
            "greedily on training programs and judged on validation programs. The table gives what a probe without a "
            "limit explains, in the model and in the untrained model at the same site.",
        ),
        figure=figures.neurons(table, results.scores),
        caption="R² on validation programs in the trained model, as a share of what the probe without a limit "
        "reaches; dotted: 95 % of it. Variables of which that probe explains less than "
        f"{figures.MIN_EXPLAINED:.0%} are left out.",
        alt="A panel for each variable: the share of R² rises with the number of dimensions and of neurons to 1.",
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
        ("These cells have no score; the others are unaffected.",),
        display_table=sites.rename(columns={"site": "sites"}).astype(str),
    )
