"""The paper's Table 3 and Figures 1 and 2 for a trained model, as a page: what it completes, where in the plane of X
and Y it tells their relation, and how well both numbers can be read, token by token."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analyses.reporting import behaviour, planes, report
from analyses.studies.paper import figures, study
from analyses.studies.paper.study import PaperConfig, PaperResults
from analyses.studies.paper.summary import summary
from cadmus.programs.families import Compare
from cadmus.runtime.progress import Progress, no_progress
from cadmus.training.plane import by_region

_SIGNS = {"less": "<", "equal": "=", "greater": ">", "other": "anything else"}


def make(config: PaperConfig, out: Path | str, progress: Progress = no_progress) -> Path:
    """Measure and write the page, its figures and tables to `out`; returns the page's path. Raises ValueError where the
    mixture has no compare."""
    results = study.run(config, progress)
    title = f"Table 3 and Figures 1 and 2 of the paper: {Path(config.run).name}"
    training = behaviour.training_sections(results.trained)
    page = report.Report(title, summary(results), (*sections(results), *training), provenance(results))
    return report.write(page, out)


def provenance(results: PaperResults) -> dict[str, str]:
    """How the tables were made."""
    config, trained = results.config, results.trained
    return {
        "paper, command": f"cadmus-probe paper {config.run} --reach {config.reach} --programs {config.programs} "
        f"--number-programs {config.number_programs} --eval-programs {config.eval_programs} --seed {config.seed}",
        "model": trained.fingerprint,
        "mixture": f"{trained.mixture.name}; {trained.mixture.fingerprint}",
        "corpus": behaviour.corpus_in_words(trained),
        "seeds": f"training {trained.seed}, measuring {config.seed}",
    }


def sections(results: PaperResults) -> tuple[report.Section, ...]:
    """Table 3, Figure 1 and Figure 2."""
    return behaviour.completion_section(results.accuracies), *figure_sections(results)


def figure_sections(results: PaperResults) -> tuple[report.Section, ...]:
    """Figure 1 and Figure 2."""
    return _plane(results), _numbers(results)


def _plane(results: PaperResults) -> report.Section:
    family = results.family
    return report.Section(
        "figure1",
        "Comparing two computed numbers over the plane",
        (
            f"A program of the family `compare` computes X in {_lengths(family)} instructions and Y in as many, and "
            "states their relation. After X and Y the model's next token is right if it is the one of `<`, `=`, `>` "
            f"that holds; any other token counts as wrong. Training drew X and Y from {family.low}..{family.high} (the "
            "dashed square). Within the square every program is from a held-out split; beyond it every program is "
            "unlike any that was trained on.",
            "Off the diagonal a model can be right without knowing X and Y exactly; on the diagonal beyond the square "
            "it has to find two numbers equal that this family never compared in training.",
        ),
        figure=planes.plane(results.plane, family.low, family.high),
        caption=f"Left: each cell is the share of right answers over {results.config.programs} programs. Right: the "
        "same by the distance of X and Y; bands: 95 % (Wilson).",
        alt=f"A map of right answers over X and Y from {results.plane.x.min()} to {results.plane.x.max()}: "
        + "; ".join(f"{row.region} {row.accuracy:.2f}" for row in by_region(results.plane).itertuples())
        + ". Beside it the share of right answers by the distance of X and Y.",
        table=results.plane,
        display_table=_regions(by_region(results.plane)),
    )


def _numbers(results: PaperResults) -> report.Section:
    table, family = results.numbers, results.family
    names = study.token_names(family)
    ends = [len(names) // 2, len(names) - 1, len(names)]
    last = table[(table.metric == "R2") & (table.layer == table.layer.max()) & table.position.isin(ends)]
    last = last.assign(token=[names[position - 1] for position in last.position])
    return report.Section(
        "figure2",
        "Two computed numbers, token by token",
        (
            "Probes read both numbers of the same kind of programs (Figure 2 of arXiv 2602.09112). At each token and "
            f"each depth of the residual stream, two probes read each number, computed in {family.length} "
            "instructions: logistic regression over the values as classes, as in the paper, and ridge regression, "
            "which knows that the values are ordered. The probes are trained and tested on programs whose skeletons "
            "the model never saw, split by skeleton.",
            "The dotted line is the best guess from the instructions seen so far, computed exactly by enumerating the "
            "generator (held-out skeletons are a sample of it); the dashed grey line is the same probe on the same "
            "architecture before training, at its best layer. A probe that is no better than these reads what the "
            "tokens give away, not what the model computed.",
        ),
        figure=figures.numbers_by_token(table, names),
        caption="X1, X2, ...: the first expression; Y1, ...: the second; rel: the relation. Bands: 95 % bootstrap over "
        "skeletons (they are wide because a few skeletons hold many programs). The classifier has to learn each value "
        "separately, from few programs; R² says how well the order of the values is held. The table shows the last "
        "layer.",
        alt="Four panels by token, two probes of two numbers: each line is a layer, from the embedding to the last. "
        + " ".join(
            f"R² of the {row.variable} at {row.token}, last layer: {row.score:.2f}."
            for row in last[last.model == "trained"].itertuples()
        ),
        table=table,
        display_table=_wide(last.sort_values(["variable", "position"]), ["variable", "token", "layer"], "R²"),
    )


def _wide(table: pd.DataFrame, keys: list[str], label: str) -> pd.DataFrame:
    """Lay out a row per key, with the trained and the untrained model's score side by side."""
    rows = []
    for key, part in table.groupby(keys, sort=False):
        row = dict(zip(keys, key, strict=True))
        for name in ("trained", "untrained"):
            cell = part[part.model == name].iloc[0]
            row[f"{label}, {name}"] = report.with_interval(cell.score, cell.low, cell.high)
        rows.append(row)
    return pd.DataFrame(rows)


def _lengths(family: Compare) -> str:
    """In how many instructions the family computes a number, in words."""
    shortest = family.min_length or family.length
    return str(family.length) if shortest == family.length else f"{shortest} to {family.length}"


def _regions(regions: pd.DataFrame) -> pd.DataFrame:
    """Format the table of `by_region` for reading."""
    return pd.DataFrame(
        {
            "region": regions.region,
            "accuracy": [report.with_interval(row.accuracy, row.low, row.high) for row in regions.itertuples()],
            "programs": regions.n.map("{:,}".format),
            **{f"answers {sign}": regions[name].map("{:,}".format) for name, sign in _SIGNS.items()},
        }
    )
