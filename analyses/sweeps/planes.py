"""Where in the plane of two numbers a run's model tells their relation: the responses figure1.NAME.

All models answer programs of the base mixture's `compare`, whose low..high is the trained square, under its hold-out.
"""

from __future__ import annotations

import pandas as pd

from analyses.sweeps.accuracies import Response, nothing
from analyses.sweeps.sweep import FIGURE1, PLANE, Sweep
from cadmus.models.model import Model
from cadmus.programs.families import Compare
from cadmus.runtime.progress import Progress, no_progress
from cadmus.training.plane import by_region, figure1

COLUMNS = ("x", "y", "region", "accuracy", "n", "less", "equal", "greater", "other")
"""Of a plane: a row per X and Y, as `cadmus.training.plane.figure1` gives them."""


def plane(sweep: Sweep, model: Model, seed: int, progress: Progress = no_progress) -> pd.DataFrame:
    """Figure 1 of a model. Raises ValueError where a cell of the plane has no program."""
    mixture, measure = sweep.recipe.mixture, sweep.measure
    family = mixture.family("compare")
    assert isinstance(family, Compare), "the class of that name"
    table = figure1(
        model,
        family,
        mixture.hold_out,
        reach=measure.plane_reach,
        programs=measure.plane_programs,
        seed=seed,
        progress=progress,
    )
    return table[list(COLUMNS)]


def plane_responses(sweep: Sweep, table: pd.DataFrame) -> list[Response]:
    """The responses figure1.NAME of a plane: right answers by region, with Wilson's interval."""
    by_name = by_region(table).set_index("region")
    out = []
    for response in sweep.responses:
        kind, _, name = response.partition(".")
        if kind != FIGURE1:
            continue
        if PLANE[name] not in by_name.index:
            out.append(nothing(response, "the plane does not reach beyond the trained square: raise plane_reach"))
            continue
        row = by_name.loc[PLANE[name]]
        out.append(Response(response, float(row.accuracy), float(row.low), float(row.high), int(row.n)))
    return out
