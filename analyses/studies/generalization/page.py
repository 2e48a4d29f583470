"""The page about a sweep: its hypotheses answered, every effect and model, and what the inner state adds."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analyses.reporting import report
from analyses.studies.generalization import figures, models, planes, study
from analyses.studies.generalization.effects import best_models
from analyses.studies.generalization.hypotheses import NOTHING
from analyses.studies.generalization.study import GeneralizationConfig, GeneralizationResults
from analyses.studies.generalization.summary import summary
from cadmus.runtime.progress import Progress, no_progress

_SPREAD = ("median", "least", "greatest")  # of `levels.cells`


def make(config: GeneralizationConfig, out: Path | str, progress: Progress = no_progress) -> Path:
    """Regress and write the page, its figures and tables to `out`; returns the page's path."""
    results = study.run(config, progress)
    title = f"Generalization, {results.name}: what the training distribution did"
    page = report.Report(title, summary(results), sections(results), provenance(results))
    return report.write(page, out)


def provenance(results: GeneralizationResults) -> dict[str, str]:
    """How the tables were made."""
    config = results.config
    named = "".join(f" --predictor {name}" for name in config.predictors)
    named += f" --beside {config.beside}" if config.beside else ""
    return {
        "command": f"cadmus-probe generalization {config.sweep}{named} --draws {config.draws} --seed {config.seed}",
        "sweep": results.name,
    }


def sections(results: GeneralizationResults) -> tuple[report.Section, ...]:
    """Hypotheses, Figure 1, effects, cells, models, the inner state, levels, properties, and what is missing."""
    parts = [
        _hypotheses(results.hypotheses),
        planes.section(results.planes),
        _effects(results.effects),
        _cells(results.cells),
        _models(results),
    ]
    parts += [_inner_state(results), _ranks(results.ranks), _properties(results.properties), _missing(results.missing)]
    return tuple(part for part in parts if part is not None)


def _hypotheses(table: pd.DataFrame) -> report.Section | None:
    if table.empty:
        return None
    display = table[["name", "response", "predictor", "expected", "verdict", "why"]].copy()
    display.insert(5, "effect", _intervals(table))
    display.insert(6, "q", [_p(value) for value in table["q"]])
    return report.Section(
        "hypotheses",
        "The hypotheses, one by one",
        (
            "Stated in the sweep's file before the runs. A sign is supported (contradicted, by the other sign) where "
            "the interval of the mixed model excludes 0, q over all hypotheses is at most 0.05, the wild cluster "
            "bootstrap agrees, and no missing values could turn it. Held fixed are the other factors where the "
            "predictor is one, the other predictors where it is a measured property, accuracy in distribution where it "
            "was measured on the models themselves. None is supported where the interval of the response's change over "
            f"the predictor's whole range lies within {NOTHING} of 0. Everything else is undecided.",
        ),
        table=table,
        display_table=display,
    )


def _effects(table: pd.DataFrame) -> report.Section | None:
    if table.empty:
        return None
    fitted = best_models(table)
    display = fitted[["response", "predictor", "model", "models", "cells"]].copy()
    display["effect"] = _intervals(fitted)
    display["wild"] = [f"[{report.number(r.wild_low)}, {report.number(r.wild_high)}]" for r in fitted.itertuples()]
    display["q"] = [_p(value) for value in fitted["q"]]
    for name, column in (("partial R²", "partial_r2"), ("left-out R²", "left_out_r2"), ("VIF", "inflation")):
        display[name] = [report.number(value) for value in fitted[column]]
    unfitted = table[table["effect"].isna()]
    whys = tuple(f"Not fitted: {why}." for why in dict.fromkeys(unfitted["why"]) if why)
    return report.Section(
        "effects",
        "What goes with what",
        (
            "The change of a response, in shares, with one standard deviation of a property of the models' own corpora "
            "(as a sample of their programs has it; counted in powers of ten where it spans one) or of a factor. A "
            "joint regression holds the other predictors fixed, of a factor the other factors alone, since it may act "
            "by way of the properties; seeds are blocks, cells the clusters. Effect: a random "
            "intercept for each cell, by restricted maximum likelihood. Wild: the interval of the wild cluster "
            "bootstrap, which is about the effect of least squares and may lie beside that of the mixed model. The "
            "table in tables/ has least squares with errors clustered by cell (CR2) too, and the bounds of each "
            "effect whatever the missing values are. q: over the responses. Left-out R²: how well cells are "
            "predicted that the regression did not see, against the mean.",
            *whys,
        ),
        figure=figures.effects(table) if len(fitted) else None,
        caption="Blue: the mixed model with its 95 % interval; grey: the wild bootstrap's, cut where it is far wider.",
        table=table,
        display_table=display,
    )


def _cells(table: pd.DataFrame) -> report.Section:
    levels = [name for name in table.columns if name not in ("response", "cell", "models", *_SPREAD)]
    spread = [
        f"{report.number(row.median)} ({report.number(row.least)} to {report.number(row.greatest)})"
        if row.models
        else "missing"
        for row in table.itertuples()
    ]
    order = {name: list(dict.fromkeys(table[name])) for name in ("cell", "response")}
    display = table.assign(spread=spread).pivot(index="cell", columns="response", values="spread")
    display = display.loc[order["cell"], order["response"]]
    heads = table.drop_duplicates("cell").set_index("cell").loc[order["cell"], levels]
    return report.Section(
        "cells",
        "Every distribution",
        ("What the seeds of each training distribution give: the median, and the least to the greatest in brackets.",),
        table=table,
        display_table=pd.concat([heads, display], axis=1).reset_index(drop=True),
    )


def _models(results: GeneralizationResults) -> report.Section | None:
    names = [name for name in results.effects["predictor"] if name in results.table.columns]
    arms = models.factors(results.table)
    if not (names or arms) or results.table["value"].isna().all():
        return None
    predictor = models.resolve(results.table, names[0]) if names else models.Predictor(arms[0], logarithmic=False)
    return report.Section(
        "models",
        "Every model",
        (f"Each response by {figures.display_name(predictor.name)}: a point is a model, a colour a seed.",),
        figure=figures.distributions(results.table, predictor),
        caption="Where the seeds of one level disagree, a mean would say little.",
        table=results.table,
    )


def _inner_state(results: GeneralizationResults) -> report.Section | None:
    table = results.inner_state
    if table.empty:
        return None
    fitted = table[table["effect"].notna()]
    display = fitted[["response", "state", "comparison", "beyond", "models"]].copy()
    display["effect"] = _intervals(fitted)
    display["q"] = [_p(value) for value in fitted["q"]]
    display["wild p"] = [_p(value) for value in fitted["wild_p"]]
    for name in ("partial_r2", "left_out_r2_without", "left_out_r2"):
        display[name] = [report.number(value) for value in fitted[name]]
    return report.Section(
        "inner_state",
        "Does the inner state tell more than accuracy in distribution?",
        (
            "Accuracy out of distribution regressed on accuracy in distribution and, beside it, on how well the state "
            "is read or how often an exchange of it is followed. Across cells: all models. What a distribution does to "
            "accuracy and state alike then looks as if the one told of the other; so the second question has accuracy "
            "on the base mixture beside it too, on whose programs every state is measured, and which to most cells is "
            "itself out of distribution. Within cells: models of one distribution, which differ by their seed alone. "
            "Left-out R²: cells that the regression did not see, without and with the inner state.",
        ),
        figure=figures.inner_state(results.table, table) if (fitted["comparison"] == "across cells").any() else None,
        caption="What accuracy in distribution leaves of both; a point is a model, a colour a cell.",
        table=table,
        display_table=display,
    )


def _ranks(table: pd.DataFrame) -> report.Section | None:
    if table.empty:
        return None
    display = table[["factor", "response", "blocks", "models"]].copy()
    display["rho"] = [report.with_interval(row.rho, row.low, row.high) for row in table.itertuples()]
    display["p"] = [_p(value) for value in table["p"]]
    display["q"] = [_p(value) for value in table["q"]]
    display["p, cells"] = [_p(value) for value in table["p_cells"]]
    return report.Section(
        "levels",
        "By level",
        (
            "Spearman's ρ of a response with the levels of a factor, within blocks of one seed and the same levels of "
            "the other factors; the mean over blocks, its interval over blocks of such seeds (of these very cells), "
            "which few blocks that all agree leave wide; p by permuting levels within them: small where cells "
            "differ in the order of their levels, for whatever reason. The last column permutes levels alike for all "
            "seeds, so that cells may differ for reasons of their own; with few levels it cannot be small.",
        ),
        table=table,
        display_table=display,
    )


def _properties(table: pd.DataFrame) -> report.Section | None:
    if table.empty:
        return None
    part = table[table["moved"]].sort_values("between", ascending=False)
    display = part[["property"]].assign(**{name: part[name].map("{:.4g}".format) for name in ("mean", "deviation")})
    display["between cells"] = [report.number(value) for value in part["between"]]
    return report.Section(
        "properties",
        "What the design moved",
        (
            f"{len(part)} of {len(table)} measured properties vary between cells more than between corpora of one "
            "cell: what is not a factor here may still be what acts.",
        ),
        table=table,
        display_table=display,
    )


def _missing(table: pd.DataFrame) -> report.Section | None:
    part = table[table["ok"] < table["models"]]
    if part.empty:
        return None
    return report.Section(
        "missing",
        "What is missing",
        (
            "Measurements that failed or could not be made, cell by cell. Regressions and ranks use the models that "
            "have a value.",
        ),
        table=table,
        display_table=part,
    )


def _intervals(table: pd.DataFrame) -> list[str]:
    return [report.with_interval(r.effect, r.low, r.high) for r in table.itertuples()]


def _p(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.3f}"
