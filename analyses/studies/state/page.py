"""The state report as a page: which variables are readable where, and beyond which controls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from analyses.reporting import report
from analyses.reporting.sites import location_column, omitted_note
from analyses.studies.state import figures, gaps, probe_comparison, summary, tables
from analyses.studies.state.study import StateConfig, StateResults, run
from cadmus.runtime.progress import Progress
from probes.measurement.passes import SAMPLE_ROWS


def make(config: StateConfig, out: Path | str, stage: Progress = lambda name, share, note: None) -> Path:
    """Measure and write the page, its figures and tables to `out`; returns the page's path."""
    found = run(config, stage)
    page = report.Report(
        f"The machine's state in the activations of {Path(config.run).name}",
        summary.statements(found),
        sections(found),
        about(found),
    )
    return report.write(page, out)


def about(found: StateResults) -> dict[str, str]:
    """How the tables were made."""
    return {
        "state, command": _command(found.config),
        "state, programs": f"{found.programs:,} of unseen skeletons; probes are judged on a quarter of the skeletons",
        "model": found.trained.fingerprint,
    }


def _command(config: StateConfig) -> str:
    """What makes the same tables again; what is as usual is left out."""
    words = ["cadmus-probe probe", config.run, f"--programs {config.programs} --seed {config.seed}"]
    usual = StateConfig()
    for option in ("variable", "site", "family", "offset"):
        field = "families" if option == "family" else f"{option}s"
        if getattr(config, field) != getattr(usual, field):
            words += [f"--{option} {value}" for value in getattr(config, field)]
    words += [f"--machines {config.machines}"] if config.machines != usual.machines else []
    words += [f"--probe {config.probe}"] if config.probe else []
    return " ".join([*words, *(["--full"] if config.full else [])])


def sections(found: StateResults) -> tuple[report.Section, ...]:
    """The sections of the page, those that have no data left out."""
    made = [
        _map(found),
        _token_classes(found.scores),
        _breakdowns(found.scores),
        _offsets(found.scores),
        _families(found),
    ]
    made += [_gaps(found), _readers(found), _numbers(found), _residues(found), _needed(found), _problems(found.scores)]
    return tuple(section for section in made if section is not None)


_PROBE = "A linear probe per variable and site, a discriminant classifier over categories or over a number's values"
_OWN = "The probe {}, of which " + f"a copy per variable and site is fitted on about {SAMPLE_ROWS:,} training tokens"
_OURS = (
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


def _map(found: StateResults) -> report.Section:
    rows = tables.headline(found.scores)
    rows = tables.at_best_sites(rows[rows.score.notna()], found.scores)
    title = "Which variables are readable, and where"
    if rows.empty:
        return report.Section("state", title, ("No variable could be measured at any site.",), table=found.scores)
    controls = summary.controls(rows)
    shown = pd.DataFrame(
        {
            "variable": rows.variable,
            **location_column(rows),
            "score": [report.with_interval(r.score, r.low, r.high) for r in rows.itertuples()],
            **{name: rows[name].map(report.number) for name in controls},
            "beyond the best": report.intervals(rows, "beyond"),
            "q": rows.q.map("{:.3f}".format),
            "selectivity": rows.selectivity.map(report.number),
            "bits saved (permuted)": [
                f"{r.frequency_bits - r.bits:.2f} ({r.control_frequency_bits - r.control_bits:.2f})"
                for r in rows.itertuples()
            ],
            "given away": rows.screen,
        }
    )
    return report.Section(
        "state",
        title,
        (
            f"{_PROBE if not found.config.probe else _OWN.format(found.config.probe)}, reads the machine's state after "
            "the current token, at every token of programs whose skeletons neither the model nor the probe was trained "
            "on. What is drawn is the share read exactly.",
            "The right map is the score minus the best of the controls on the same tokens: "
            f"{'; '.join(_CONTROLS[name] for name in controls)}. Where it is not above 0 the probe reads what the "
            f"input gives away, or what any random network computes.{_OURS if found.config.probe else ''}",
        ),
        figure=figures.maps(found.scores),
        caption="All tokens pooled: digits print the top of the stack, so that the right map asks more than the left. "
        "The table has each variable at the site that reads most on validation programs. q: Benjamini-Hochberg over "
        "the map; selectivity: score minus that on labels permuted within (token, previous token); bits saved: online "
        "code length per label without activations minus that with them, and the same of the permuted labels.",
        table=found.scores,
        shown=shown,
    )


def _token_classes(scores: pd.DataFrame) -> report.Section | None:
    if tables.breakdown(scores, "token class").empty:
        return None
    return report.Section(
        "token-classes",
        "After which tokens",
        (
            "The same probes, judged by the class of the current token: the score beyond the best control, which is "
            "chosen for each class. After an operator the top of the stack is no token of the input: it was computed.",
        ),
        figure=figures.by_token_class(scores),
        caption="Score minus best control; classes with fewer than 20 test tokens are left out." + omitted_note(scores),
    )


def _breakdowns(scores: pd.DataFrame) -> report.Section | None:
    figure = figures.by_depth_and_distance(scores)
    if figure is None:
        return None
    return report.Section(
        "depth",
        "How deep, and how long ago",
        ("The share read at each variable's site by stack depth, and of registers by how soon they are read again.",),
        figure=figure,
        caption="Filled: the probe, with its 95 % interval; hollow: the best control there. dead: overwritten before "
        "it is read, or never read.",
    )


def _offsets(scores: pd.DataFrame) -> report.Section | None:
    if scores[scores.score.notna()].offset.nunique() < 2:
        return None
    return report.Section(
        "offsets",
        "Past, present and future",
        (
            "The probe of the state some tokens back or ahead. A state ahead is not determined by the prefix; there "
            "the best control (often the trigram) is a lower estimate of what can be known.",
        ),
        figure=figures.by_offset(scores),
        caption="The site of each variable is that of its present state.",
    )


def _families(found: StateResults) -> report.Section | None:
    if tables.breakdown(found.scores, "family").empty:
        return None
    families = found.config.families or [family.name for family in found.trained.mixture.families]
    return report.Section(
        "families",
        "By family of programs",
        ("The score beyond the best control at each variable's site, judged on the programs of one family.",),
        figure=figures.by_family(found.scores, families),
        caption="Empty: the family has fewer than 20 such test tokens.",
    )


def _gaps(found: StateResults) -> report.Section | None:
    if found.gaps.empty:
        return None
    described = "; ".join(
        f"{row.name}: {row.moved} (distance {row.distance:.2f})" for row in found.machines.itertuples(index=False)
    )
    return report.Section(
        "alternative-machines",
        "Represented, or computed by the probe?",
        (
            "The same probe retrained on the states that other machines have on the same programs (Jin & Rinard, "
            "arXiv 2305.11169): instructions with the meanings of others of their type, labels about as uncertain. A "
            f"probe that computes the state itself would read theirs as well. {described}.",
        ),
        figure=gaps.by_layer(found.gaps),
        caption="Selectivity: score minus that on permuted labels. Variables whose states no machine changes are left "
        "out. Bands, or bars: 95 %." + omitted_note(found.gaps),
        table=found.gaps,
        shown=gaps.shown(gaps.by_distance(found)),
    )


def _readers(found: StateResults) -> report.Section | None:
    if found.readers.empty:
        return None
    table = found.readers.assign(
        accuracy=[report.with_interval(r.score, r.low, r.high) for r in found.readers.itertuples()]
    )
    order, probes = list(table.variable.unique()), list(table.probe.unique())
    shown = table.pivot(index="variable", columns="probe", values="accuracy").reindex(order)[probes].reset_index()
    return report.Section(
        "readers",
        "By which probe",
        (
            "The same variables at the same sites, each read by several classifiers that were fitted to the same "
            f"{probe_comparison.ROWS['train']:,} training tokens or fewer: least squares, discriminant and logistic, "
            "all linear, and a network with one hidden layer. What the network reads beyond the logistic probe is "
            "there, but not linearly, or is computed by the network.",
        ),
        caption="Share of test tokens read rightly, with its 95 % interval over skeletons.",
        table=found.readers,
        shown=shown,
    )


def _numbers(found: StateResults) -> report.Section | None:
    if found.numbers.empty:
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
        figure=figures.numbers(found.numbers),
        caption="Filled: the model; hollow: the model before its training. The sampling variance of the means is "
        "subtracted, so that 1 is all there is; the axis is cut. Bars: 95 % over the values held out."
        + omitted_note(found.numbers),
        table=found.numbers,
    )


def _residues(found: StateResults) -> report.Section | None:
    if found.residues.empty:
        return None
    return report.Section(
        "residues",
        "Which residues of integers can be told",
        (
            "How often a linear classifier tells the residue of a value held out from its mean activation, at the site "
            "where the variable is read best; beside it the same in the untrained model at that site.",
        ),
        table=found.residues,
        shown=tables.residues(found.residues, found.scores),
    )


def _needed(found: StateResults) -> report.Section | None:
    table = found.dimensions
    if table.empty:
        return None
    return report.Section(
        "dimensions",
        "How many dimensions, how many neurons",
        (
            "The best probe of each rank, and the best of few coordinates of the site, chosen greedily on training "
            "programs and judged on validation programs. What the probe without a limit explains in the untrained "
            "model at the same site stands beside it.",
        ),
        figure=figures.neurons(table, found.scores),
        caption="Of the trained model: the share of the R² on validation programs that the probe without a limit has; "
        "dotted: 95 % of it. Variables of which that explains next to nothing are left out.",
        table=table.assign(neurons=table.neurons.map(_listed)),
        shown=tables.dimensions(table, found.scores),
    )


def _listed(neurons: Any) -> str:
    return " ".join(map(str, neurons)) if isinstance(neurons, tuple) else ""


def _problems(scores: pd.DataFrame) -> report.Section | None:
    rows = scores[(scores.problem != "") & (scores.by == "all")]
    if rows.empty:
        return None
    rows = rows.assign(problem=rows.problem.map(summary.one_line))
    shown = rows.groupby(["variable", "offset", "problem"], sort=False).site.nunique().reset_index()
    return report.Section(
        "problems",
        "What could not be measured",
        ("These cells have no score; all others are unaffected.",),
        shown=shown.rename(columns={"site": "sites"}).astype(str),
    )
