"""The page about what a model uses of the machine's state: the finding in a picture, each variable in a sentence with
its maps, and the heads, distances and dead values beneath."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from analyses.reporting import report
from analyses.studies.interventions import figures, full_sections, route_sections, study, words
from analyses.studies.interventions.study import InterventionsConfig, InterventionsResults, ModelResults
from analyses.studies.interventions.summary import notes, other_stratum, reading, sentence, summary
from analyses.studies.interventions.tables import in_models, of_stratum, untested_rows, verdict_table, with_untested
from cadmus.runtime import artifacts
from cadmus.runtime.progress import Progress, no_progress

_DEFINITIONS = (
    "A pair is two programs of the same skeleton, a base and a source, that differ in the value of one variable. The "
    "base runs in the model up to the token where it must decide, and at one block and one role the residual stream is "
    "replaced by that of the source (an exchange). The machine executes the base with that value edited, and so says "
    "which completions are true then. A pair counts where the model's own completion is true before the edit and false "
    "after it; the exchange succeeds where the new completion has the family's form, is true after the edit and false "
    "before it.",
    "Only discriminating pairs speak here: the source's own answer differs from the one asked for, so that carrying "
    "the source's answer across does not succeed. Beside each exchange stand the same exchange from a source with a "
    "third value, from one with the same value, a random vector of the same norm, and the untrained twin; d is the "
    "success minus the best of these controls on the same pairs. Its bounds hold for all blocks and roles at once. "
    "Used means that the lower bound of d lies above 0.05 (Holm's correction over the variables), unused that the "
    "upper bound lies below it everywhere on 200 pairs or more while patching the input tokens does move the answer, "
    "spent that a value still readable here is used earlier while its exchange here surely changes fewer than 0.05 of "
    "the answers; everything else is undecided.",
    "Roles are what the value is doing at a token: it arises, is stored in a register, lies there between other "
    "tokens, is loaded, is taken by an instruction, or still lies in the state at the decision. Blocks are counted "
    "from 0: after block 0 is what the pages on probing call layer 1. Where the exchange amounts to a change of the "
    "input, it is reported and nothing is claimed.",
)


def make(config: InterventionsConfig, out: Path | str, progress: Progress = no_progress) -> Path:
    """Test, and write the page, its figures and tables to `out`; returns the page's path. Finished experiments of the
    same fingerprint in `out` are read. Raises ValueError as `study.run` does."""
    results = study.run(config, progress, out)
    title = f"{config.names[0]}: what it uses of the machine's state"
    return report.write(report.Report(title, summary(results), sections(results), provenance(results)), out)


def provenance(results: InterventionsResults) -> dict[str, str]:
    """How the tables were made."""
    versions = artifacts.provenance()
    return {
        "command": command(results.config),
        "model" if len(results.models) == 1 else "models": ", ".join(
            f"{model.name} {model.trained.fingerprint}" for model in results.models
        ),
        "pairs": f"of the mixture {results.models[0].trained.mixture.name!r} "
        f"({results.models[0].trained.mixture.fingerprint}), skeletons that no training saw, seed "
        f"{results.config.seed}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions["versions"].items()),
    }


def command(config: InterventionsConfig) -> str:
    """The command that makes the page."""
    words_ = ["cadmus-probe", "intervene", *config.runs]
    for variable in config.variables:
        words_ += ["--variable", variable]
    words_ += ["--pairs", str(config.pairs), "--seed", str(config.seed)]
    words_ += [f"--{name}" for name in ("quick", "full") if getattr(config, name)]
    return shlex.join(words_)


def sections(results: InterventionsResults) -> tuple[report.Section, ...]:
    """The picture, in how many models it holds, each variable, the routes, and the tables whole."""
    model = results.models[0]
    return (
        _findings(model, results.config),
        *_models(results),
        *(_variable(model, row) for row in model.headlines.to_dict("records")),
        *route_sections.sections(model.tables),
        *full_sections.sections(model.tables),
        *_whole_tables(model),
    )


def _findings(model: ModelResults, config: InterventionsConfig) -> report.Section:
    table = model.headlines
    remarks = []
    if config.quick:
        remarks.append(
            "This is a quick look: few pairs and cells, so that much stays undecided that a full run decides."
        )
    if model.untested:
        parts = [f"{words.variable(name)} ({reason})" for name, reason in model.untested.items()]
        remarks.append(f"Not tested: {'; '.join(parts)}.")
    literal = [words.variable(row.variable) for row in table.itertuples() if row.stratum == "literal"]
    if literal:
        remarks.append(
            f"In all counting pairs of {report.listed(literal)} the value is written as a digit: exchanging it where "
            "it stands moves the input itself, so that the opening paragraph leaves it out where others are computed."
        )
    return report.Section(
        "findings",
        "Readable, read and used",
        tuple(remarks),
        figure=figures.overview(table),
        caption="Left: how well a linear probe reads the value where it does so best, beside the same probe on the "
        "untrained twin and on the input alone. Right: the share of counting pairs whose answer an exchange of the "
        "value moves to the one that the machine asks for, where it does so best, beside the best control on the "
        "same pairs and chance (how often another pair's completion would do). Bars: 95 % intervals. The words at "
        f"the right follow from the bounds: {figures.YES} claimed, {figures.NO} surely absent (the upper bound "
        f"is below 0.05 wherever it was tested), {figures.UNDECIDED} undecided.",
        table=with_untested(table, model.untested),
        display_table=pd.concat([verdict_table(table), untested_rows(model.untested)], ignore_index=True).fillna(""),
    )


def _models(results: InterventionsResults) -> Iterator[report.Section]:
    if len(results.models) < 2:
        return
    table = in_models({model.name: model.headlines for model in results.models})
    yield report.Section(
        "models",
        "In how many models it holds",
        (
            "The same test in every model named, each with pairs of its own mixture. The columns readable, read and "
            "used count the models in which the word is claimed.",
        ),
        table=table,
        display_table=table,
    )


def _variable(model: ModelResults, row: dict) -> report.Section:
    part = model.tables.only(row["variable"])
    cells = part.verdicts[part.verdicts["stratum"] == row["stratum"]]
    has_digits = row["stratum"] == "computed" and (part.verdicts["stratum"] == "literal").any()
    literal = other_stratum(of_stratum(part.verdicts, "literal")) if has_digits else ""
    return report.Section(
        f"variable-{row['variable'].replace('.', '-')}",
        f"{words.capital(words.variable(row['variable']))}: {row['finding']}",
        tuple(filter(None, (sentence(row), literal, reading(row), route_sections.sentence(part), notes(row, cells)))),
        figure=figures.maps(part.readable, part.verdicts),
        caption="Each cell is a block and a role. Left: the score of a linear probe minus the best control of its "
        "class. Right: d, the share of answers moved beyond the best control. Marks stand where a word is claimed, and "
        "nowhere else; a cell is empty where no pair, or too few programs, have the role. Of "
        f"{row['candidates']:,} discriminating pairs whose value is {_stratum(row['stratum'])}, up to {row['pairs']:,} "
        "count.",
    )


def _stratum(name: str) -> str:
    return {"computed": "computed by an instruction", "literal": "written as a digit"}[name]


def _whole_tables(model: ModelResults) -> Iterator[report.Section]:
    """What was done, and the tables that the figures are drawn from."""
    shown_columns = [
        "variable",
        "stratum",
        "layer",
        "role",
        "span",
        "pairs",
        "accuracy",
        "best_control",
        "d",
        "verdict",
    ]
    used = model.tables.verdicts[model.tables.verdicts["verdict"].isin(["used", "spent"])]
    display_table = used[shown_columns].copy()
    for name in ("accuracy", "d"):
        display_table[name] = report.intervals(used, name)
    yield report.Section(
        "verdicts",
        "What was done, and every verdict",
        (
            *_DEFINITIONS,
            "The table shows the cells that are used or spent; the file has all, with the reason for each.",
        ),
        table=model.tables.verdicts,
        display_table=display_table.rename(columns={"layer": "block", "best_control": "best control"}),
    )
    yield _table(
        "effects", "Every exchange", "Minimal and shifted pairs too, which claim nothing.", model.tables.effects
    )
    yield _table("readable", "Every probe", "What a linear probe reads at each block and role.", model.tables.readable)
    text = "A row per variable and stratum, of the verdicts above: Holm's correction goes over all variables."
    yield _table("experiments", "Every summary", text, model.tables.summary)


def _table(name: str, title: str, text: str, table: pd.DataFrame) -> report.Section:
    return report.Section(name, title, (text,), table=table)
