"""The state report as a page: which variables are readable where, and beyond which controls."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analyses import report, state_figures
from analyses.state import State, StateConfig, run
from analyses.terminal import Stage
from probes.dimensions import needed
from probes.scores import MARGIN


def make(config: StateConfig, out: Path | str, stage: Stage = lambda name, share, note: None) -> Path:
    """Measure and write the page, its figures and tables to `out`; returns the page's path."""
    found = run(config, stage)
    page = report.Report(
        f"The machine's state in the activations of {Path(config.run).name}",
        summary(found),
        sections(found),
        about(found),
    )
    return report.write(page, out)


def about(found: State) -> dict[str, str]:
    """How the tables were made."""
    config = found.config
    given = {
        "programs": f"--programs {config.programs}",
        "seed": f"--seed {config.seed}",
        "full": "--full" if config.full else "",
        "probe": f"--probe {config.probe}" if config.probe else "",
    }
    return {
        "state, command": " ".join(["cadmus-probe probe", config.run, *filter(None, given.values())]),
        "state, programs": f"{found.programs:,} of unseen skeletons; probes are judged on a quarter of the skeletons",
        "model": found.trained.fingerprint,
    }


def summary(found: State) -> str:
    """What may be said, in sentences that the table supports."""
    rows = state_figures.headline(found.scores)
    rows = rows[rows.score.notna()]
    at = state_figures.at_best_sites(rows, found.scores).set_index("variable")
    read = at[at.read.eq(True)]
    sentences = [
        f"{len(read)} of {len(at)} variables are read, over all tokens, by more than {MARGIN} (lower bound) beyond the "
        "best of seven controls" + (f": {'; '.join(_said(row) for row in read.itertuples())}." if len(read) else ".")
    ]
    classes = found.scores[(found.scores.by == "token class") & (found.scores.probe != "ridge")]
    classes = classes[(classes.offset == 0) & classes.read.eq(True)]
    classes = state_figures.at_best_sites(classes, found.scores)
    rest = classes[~classes.variable.isin(read.index)]
    if len(rest):
        best = rest.loc[rest.groupby("variable", sort=False).beyond.idxmax()]
        sentences.append(
            "At single classes of tokens also "
            + "; ".join(f"{_said(row, row.variable)} after a token of class {row.group}" for row in best.itertuples())
            + "."
        )
    nothing = [v for v in at.index if v not in set(read.index) | set(rest.variable)]
    if nothing:
        sentences.append(
            f"For {', '.join(nothing)} no probe says more than what the input gives away, or what an untrained model's "
            "activations do."
        )
    return " ".join(sentences)


def _said(row, name: str = "") -> str:
    return (
        f"{name or row.Index} {row.score:.2f} [{row.low:.2f}, {row.high:.2f}] after layer {row.layer} "
        f"({row.best_control} {row.score - row.beyond:.2f})"
    )


def sections(found: State) -> tuple[report.Section, ...]:
    """The sections of the page, those that have no data left out."""
    scores = found.scores
    made = [_map(found), _token_classes(scores), _breakdowns(scores), _offsets(scores), _families(scores)]
    made += [_gaps(found)] if len(found.gaps) else []
    made += [_numbers(found.numbers)] if len(found.numbers) else []
    made += [_needed(found)] if len(found.dimensions) else []
    problems = _problems(scores)
    return tuple(made) if problems is None else (*made, problems)


def _map(found: State) -> report.Section:
    rows = state_figures.headline(found.scores)
    rows = state_figures.at_best_sites(rows[rows.score.notna()], found.scores)
    controls = ("majority", "by token", "n-gram", "input, linear", "input, nonlinear", "embedding", "untrained")
    shown = pd.DataFrame(
        {
            "variable": rows.variable,
            "layer": rows.layer,
            "score": [report.with_interval(r.score, r.low, r.high) for r in rows.itertuples()],
            **{name: rows[name].map("{:.2f}".format) for name in controls},
            "beyond the best": [report.with_interval(r.beyond, r.beyond_low, r.beyond_high) for r in rows.itertuples()],
            "q": rows.q.map("{:.3f}".format),
            "selectivity": rows.selectivity.map("{:.2f}".format),
            "bits (control)": [f"{r.bits:.2f} ({r.control_bits:.2f})" for r in rows.itertuples()],
            "given away": rows.screen,
        }
    )
    return report.Section(
        "state",
        "Which variables are readable, and where",
        (
            "A linear probe per variable and site reads the machine's state after the current token, at every token "
            "of programs whose skeletons neither the model nor the probe was trained on. Categories, and numbers over "
            "their values as classes, are read by a discriminant classifier; what is drawn is the share read exactly.",
            "The right map is the score minus the best of the controls on the same tokens: the best constant; the best "
            "constant given the token; a trigram; the same probe on the last eight tokens and the position; a "
            "small network on those; the same probe on the embedding; and on the untrained model at the same site. "
            "Where it is not above 0 the probe reads what the input gives away, or what any random network computes.",
        ),
        figure=state_figures.maps(found.scores),
        caption="All tokens pooled: digits print the top of the stack, so that the right map asks more than the left. "
        "The table has each variable at the site that reads most on validation programs. q: Benjamini-Hochberg over "
        "the map; selectivity: score minus that on labels permuted within (token, previous token); bits: online code "
        "length per label.",
        table=found.scores,
        shown=shown,
    )


def _token_classes(scores: pd.DataFrame) -> report.Section:
    return report.Section(
        "token-classes",
        "After which tokens",
        (
            "The same probes, judged by the class of the current token: the score beyond the best control, which is "
            "chosen for each class. After an operator the top of the stack is no token of the input: it was computed.",
        ),
        figure=state_figures.by_token_class(scores, list(state_figures.headline(scores).variable.unique())),
        caption="Score minus best control; classes with fewer than 20 test tokens are left out.",
    )


def _breakdowns(scores: pd.DataFrame) -> report.Section:
    return report.Section(
        "depth",
        "How deep, and how long ago",
        ("The share read at each variable's site by stack depth, and of registers by how soon they are read again.",),
        figure=state_figures.by_depth_and_distance(scores),
        caption="Filled: the probe, with its 95 % interval; hollow: the best control there. dead: overwritten before "
        "it is read, or never read.",
    )


def _offsets(scores: pd.DataFrame) -> report.Section:
    return report.Section(
        "offsets",
        "Past, present and future",
        (
            "The probe of the state some tokens back or ahead. A state ahead is not determined by the prefix; there "
            "the best control (often the trigram) is a lower estimate of what can be known.",
        ),
        figure=state_figures.by_offset(scores),
        caption="The site of each variable is that of its present state.",
    )


def _families(scores: pd.DataFrame) -> report.Section:
    return report.Section(
        "families",
        "By family of programs",
        ("The score beyond the best control at each variable's site, judged on the programs of one family.",),
        figure=state_figures.by_family(scores),
        caption="Empty: the family has fewer than 20 such test tokens.",
    )


def _gaps(found: State) -> report.Section:
    machines = found.machines
    described = "; ".join(
        f"{row.name}: {row.moved} (distance {row.distance:.2f})" for row in machines.itertuples(index=False)
    )
    rows = state_figures.at_best_sites(found.gaps, found.scores)
    shown = pd.DataFrame(
        {
            "variable": rows.variable,
            "layer": rows.layer,
            "machine": rows.machine,
            "labels that differ": rows.differing.map("{:.0%}".format),
            "selectivity": [
                report.with_interval(*r) for r in zip(rows.selectivity, rows.selectivity_low, rows.selectivity_high)
            ],
            "of the alternative": [
                report.with_interval(*r)
                for r in zip(
                    rows.alternative_selectivity, rows.alternative_selectivity_low, rows.alternative_selectivity_high
                )
            ],
            "gap": [report.with_interval(*r) for r in zip(rows.gap, rows.gap_low, rows.gap_high)],
        }
    )
    return report.Section(
        "alternative-machines",
        "Represented, or computed by the probe?",
        (
            "The same probe retrained on the states that other machines have on the same programs (Jin & Rinard, "
            "arXiv 2305.11169): instructions with the meanings of others of their type, labels about as uncertain. A "
            f"probe that computes the state itself would read theirs as well. {described}.",
        ),
        figure=state_figures.gaps(found.gaps),
        caption="Selectivity: score minus that on permuted labels. Variables whose states no machine changes are left "
        "out. Bands: 95 %.",
        table=found.gaps,
        shown=shown,
    )


def _numbers(table: pd.DataFrame) -> report.Section:
    return report.Section(
        "numbers",
        "How integers are held",
        (
            "Functions of the value, as many of each kind, are fitted to the mean activation of most values and judged "
            "on the values left out: polynomials; sign and magnitude; digits; a circle and its harmonics; Fourier "
            "pairs of several periods; a helix (the number itself with circles, arXiv 2502.00873). Nine functions can "
            "imitate one another; three tell the kinds apart.",
        ),
        figure=state_figures.numbers(table),
        caption="The sampling variance of the means is subtracted, so that 1 is all there is.",
        table=table,
    )


def _needed(found: State) -> report.Section:
    table, rows = found.dimensions, []
    for variable, part in state_figures.at_best_sites(table, found.scores).groupby("variable", sort=False):
        least = {probe: needed(one) for probe, one in part.groupby("probe")}
        rows.append(
            {
                "variable": variable,
                "layer": int(part.layer.iloc[0]),
                "R² of the one-hot values": f"{part.full.iloc[0]:.2f}",
                "dimensions for 95 %": least.get("reduced rank"),
                "neurons for 95 %": least.get("neurons"),
            }
        )
    return report.Section(
        "dimensions",
        "How many dimensions, how many neurons",
        (
            "The best probe of each rank, and the best of few coordinates of the residual stream, chosen greedily on "
            "training programs and judged on validation programs.",
        ),
        figure=state_figures.neurons(table, found.scores),
        caption="Dotted: 95 % of the probe without a limit.",
        table=table.assign(neurons=table.neurons.astype(str)),
        shown=pd.DataFrame(rows).fillna("").astype(str),
    )


def _problems(scores: pd.DataFrame) -> report.Section | None:
    rows = scores[(scores.problem != "") & (scores.by == "all")]
    if rows.empty:
        return None
    shown = rows.groupby(["variable", "offset", "problem"], sort=False).site.nunique().reset_index()
    return report.Section(
        "problems",
        "What could not be measured",
        ("These cells have no score; all others are unaffected.",),
        shown=shown.rename(columns={"site": "sites"}).astype(str),
    )
