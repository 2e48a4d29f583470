"""What erasure promises: after LEACE no probe that is fitted anew, on these very programs, beats the best constant.

At cells of the planted models where X can be read, X is erased by each method, and linear probes are fitted to what is
left. A case *reads* where a probe is right in more than one percentage point more of the programs that it was fitted to
than the most frequent value is. Before erasure all must; after LEACE none may, whatever the probe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from analyses.studies.calibration.instruments import Programs
from analyses.studies.calibration.planted import Planted
from cadmus.machine import tokens
from cadmus.runtime.seeds import generator
from probes.interventions.editing import engine
from probes.interventions.subspaces.erasure import Eraser, inlp, leace, mean_projection, random_projection
from probes.solvers.estimators import LeastSquaresProbe
from probes.solvers.logistic import LogisticProbe
from probes.solvers.moments import Moments

TOLERANCE = 0.01  # of the accuracy, above the most frequent value's
MAX_CELLS = 6  # of a model, drawn among those that hold X
_NOISE = 1e-3  # of activations of unit variance, which keeps them from being a table of ten points


def _none(x: np.ndarray, y: np.ndarray, moments: Moments) -> Eraser:
    """The activations as they are."""
    return random_projection(0, 0, moments.mean)


def _random(x: np.ndarray, y: np.ndarray, moments: Moments) -> Eraser:
    """A random projection of LEACE's rank."""
    return random_projection(leace(moments).rank, 0, moments.mean)


ERASERS: Mapping[str, Callable[[np.ndarray, np.ndarray, Moments], Eraser]] = {
    "none": _none,
    "LEACE": lambda x, y, moments: leace(moments),
    "mean projection": lambda x, y, moments: mean_projection(moments),
    "INLP": lambda x, y, moments: inlp(x, y, rounds=2),
    "random": _random,
}
"""Every method, by its name: (activations [n, d_model], labels [n], their moments) -> eraser."""

PROBES: Mapping[str, Callable[[], LogisticProbe | LeastSquaresProbe]] = {
    "logistic": lambda: LogisticProbe(C=10.0, tol=1e-5),
    "least squares": lambda: LeastSquaresProbe(alpha=1e-3),
}
"""The probes that are fitted anew."""


def refits(planted: Planted, programs: Programs) -> pd.DataFrame:
    """A row per cell, eraser and probe: `accuracy` on the programs fitted to, `majority`, `rank`, `change` (the mean
    squared change, as a share of the activations' variance) and `reads`."""
    rng = generator("calibration, guarantee", planted.seed)
    cells = sorted(planted.carriers | planted.duplicates | planted.decoys)
    cells = [cells[i] for i in sorted(rng.permutation(len(cells))[:MAX_CELLS])]
    sites = sorted({planted.site(stream) for stream, _ in cells})
    kept_rows = _without_tie(programs.fit_values)
    activations = engine.activations(planted.model, tokens.sequences(programs.fit[kept_rows]), sites)
    y = programs.fit_values[kept_rows]
    majority = np.bincount(y).max() / len(y)
    rows = []
    for cell in cells:
        stream, position = cell
        x = activations[planted.site(stream)][:, position].double().numpy()
        x = x / x.std() + _NOISE * rng.normal(size=x.shape)
        moments = Moments.of(x, y[:, None] == np.arange(10))
        covariance = moments.scatter / moments.n
        for method, make in ERASERS.items():
            eraser = make(x, y, moments)
            left = eraser(x)
            about = {"case": str(cell), "method": method, "majority": majority, "rank": eraser.rank}
            about["change"] = eraser.mean_squared_change(covariance) / float(np.trace(covariance))
            for name, probe in PROBES.items():
                accuracy = probe().fit(left, y).score(left, y)
                rows.append({**about, "probe": name, "accuracy": accuracy, "reads": accuracy > majority + TOLERANCE})
    return pd.DataFrame(rows)


def _without_tie(y: np.ndarray) -> np.ndarray:
    """Rows of labels among which one value is the most frequent: bool [n]. Where two are, rounding chooses between them
    row by row, and so at times better than either."""
    kept_rows = np.ones(len(y), bool)
    values, counts = np.unique(y, return_counts=True)
    for value in values[counts == counts.max()][1:]:
        kept_rows[np.flatnonzero(y == value)[-1]] = False
    return kept_rows
