"""The first sentences of the paper's page, in statements that its tables support."""

from __future__ import annotations

import pandas as pd

from analyses.reporting import behaviour, report
from analyses.studies.paper.study import PaperResults
from cadmus.training.plane import REGIONS, by_region


def summary(results: PaperResults) -> tuple[str, ...]:
    """What the model completes, where it tells the relation of two numbers, and how well the first can be read."""
    return (behaviour.completion_sentence(results.accuracies), *of_figures(results))


def of_figures(results: PaperResults) -> tuple[str, ...]:
    """The sentences of Figures 1 and 2."""
    return _relation(by_region(results.plane)), _first_number(results.numbers)


def _relation(regions: pd.DataFrame) -> str:
    """Say in how many programs the model tells the relation, inside the trained square and beyond it."""
    accuracies = {row.region: report.with_interval(row.accuracy, row.low, row.high) for row in regions.itertuples()}
    inside, diagonal, elsewhere = REGIONS
    sentence = f"Inside the trained square the model states the right relation in {accuracies[inside]} of the programs"
    if diagonal not in accuracies:
        return f"{sentence}."
    return (
        f"{sentence}; beyond it in {accuracies[elsewhere]} where X and Y differ, and in {accuracies[diagonal]} where "
        "they are equal (the paper's model: 1.00 inside, 0.46 on the diagonal outside)."
    )


def _first_number(numbers: pd.DataFrame) -> str:
    """How well the first number is read where it is computed, then until the second is, at the layer that is best where
    it is computed."""
    rows = numbers[(numbers.metric == "R2") & (numbers.variable == "first number")]
    trained = rows[rows.model == "trained"].set_index(["layer", "position"])
    untrained = rows[rows.model == "untrained"].set_index(["layer", "position"])
    length = int(rows.position.max()) // 2
    layer = int(trained.score.xs(length, level="position").idxmax())
    control = untrained.loc[(untrained.score.xs(length, level="position").idxmax(), length), :]
    at_layer = trained.xs(layer, level="layer")
    worst = at_layer.loc[length + 1 : 2 * length].score.idxmin()
    place = f"after layer {layer}" if layer else "in the embedding"
    return (
        f"A linear probe reads the first of two computed numbers with R² {_score(at_layer.loc[length])} where its "
        f"expression ends ({place}; untrained model, best layer, {_score(control)}), with "
        f"{_score(at_layer.loc[worst])} at the worst token while the second is computed, and with "
        f"{_score(at_layer.loc[2 * length])} where that ends."
    )


def _score(row: pd.Series) -> str:
    return report.with_interval(row.score, row.low, row.high)
