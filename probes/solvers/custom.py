"""Probes of one's own: anything with `fit` and `predict`, run through the same data, controls and report as ours."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from sklearn.base import clone

from probes.data.loading import FAILURES, one_line
from probes.data.loading import load as load_object
from probes.data.targets import Target
from probes.solvers.site_probes import MIN_ROWS, constant_problem, few_rows_note, joined, left_out_note


@runtime_checkable
class Probe(Protocol):
    """What a probe must have. scikit-learn's regressors and classifiers do.

    x float32 [n, features]: activations of one site; y int64 [n]: the values of one variable. A fresh copy is fitted
    for every (site, target). `predict` gives a number per row, [n]; it counts where it rounds to the value.
    """

    def fit(self, x: np.ndarray, y: np.ndarray) -> Any:
        """Learn from training rows."""

    def predict(self, x: np.ndarray) -> np.ndarray:
        """[n, features] -> [n]."""


def load(source: str) -> Probe:
    """Load the probe that `FILE.py:NAME` names: a class, made without arguments, or an object.

    The file's folder is searched for modules that it imports, then or later, after all that is installed. Raises
    ValueError, in one line, where the file, the name or one of `fit` and `predict` is missing, and where the file
    raises or exits.
    """
    probe = load_object(source, "--probe", "my_probe.py:MyProbe")
    try:
        probe = probe() if isinstance(probe, type) else probe
    except FAILURES as error:
        raise ValueError(f"{source} raised {one_line(error)}") from error
    if not isinstance(probe, Probe):
        raise ValueError(f"{source} has no fit and predict; a probe needs both (probes.Probe)")
    return probe


@dataclass(frozen=True, repr=False)
class CustomSiteProbes:
    """Fitted copies of a user's probe at one site, one per target."""

    thread_safe: ClassVar[bool] = False
    """A user's probe may not be thread-safe, so that each runs on its own."""

    fitted: tuple[Any, ...]
    """The copy of each target, None where it could not be fitted."""

    problems: dict[int, str] = field(default_factory=dict)
    """Why a target could not be fitted, or does not predict, by target."""

    notes: dict[int, str] = field(default_factory=dict)
    """What the reader of a score should know, by target."""

    name: str = ""
    """The probe's class."""

    @classmethod
    def fit(cls, probe: Probe, x: np.ndarray, values: np.ndarray, mask: np.ndarray) -> CustomSiteProbes:
        """Fit a copy per target to x [rows, features]; values int and mask bool [rows, targets].

        A target whose copy raises is reported in `problems`.
        """
        fitted, problems, notes = [], {}, {}
        finite = np.isfinite(x).all(1)
        left_out = left_out_note(int((~finite).sum()))
        for k in range(values.shape[1]):
            rows = mask[:, k] & finite
            y = values[rows, k].astype(np.int64)
            copied = None
            if len(y) < MIN_ROWS:
                problems[k] = f"{len(y)} training tokens; a probe needs {MIN_ROWS}" + f" ({left_out})" * bool(left_out)
            elif (y == y[0]).all():
                problems[k] = constant_problem(y[0])
            else:
                copied, problem = _fitted(probe, x[rows], y)
                problems |= {k: problem} if problem else {}
            fitted.append(copied)
            note = joined(few_rows_note(len(y), x.shape[1]), left_out)
            if note and k not in problems:
                notes[k] = note
        return cls(tuple(fitted), problems, notes, type(probe).__name__)

    def __repr__(self) -> str:
        n_fitted = sum(probe is not None for probe in self.fitted)
        return f"CustomSiteProbes({self.name}: {n_fitted} of {len(self.fitted)} targets fitted)"

    def predict(self, x: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Predict all targets from x [rows, features], where mask bool [rows, targets] is True (default: everywhere).

        float32 [rows, targets], NaN where there is no probe, or it raises: then `problems` says so from now on.
        """
        predicted = np.full((len(x), len(self.fitted)), np.nan, np.float32)
        finite = np.isfinite(x).all(1)
        for k, probe in enumerate(self.fitted):
            rows = finite if mask is None else finite & mask[:, k]
            if probe is not None and k not in self.problems and rows.any():
                try:
                    predicted[rows, k] = _checked_prediction(probe, x[rows])
                except FAILURES as error:
                    self.problems[k] = one_line(error)
        return predicted

    def penalty(self, target: int) -> float:
        """Always NaN: custom probes have no penalty."""
        return float("nan")

    def probe_name(self, target: Target) -> str:
        """The probe's class."""
        return self.name


def fresh(probe: Probe) -> Any:
    """Make an unfitted copy of a probe."""
    return clone(probe) if hasattr(probe, "get_params") else copy.deepcopy(probe)


def _fitted(probe: Probe, x: np.ndarray, y: np.ndarray) -> tuple[Any, str]:
    """(A copy of the probe fitted to these rows, ""), or (None, what it raised)."""
    try:
        copied = fresh(probe)
        copied.fit(x, y)
        _checked_prediction(copied, x[:7])
    except FAILURES as error:  # whatever a user's code raises concerns this cell only
        return None, one_line(error)
    return copied, ""


def _checked_prediction(probe: Any, x: np.ndarray) -> np.ndarray:
    """What a probe predicts from x [rows, features]: [rows]. Raises ValueError for anything else than numbers."""
    predicted = np.asarray(probe.predict(x))
    if predicted.shape != (len(x),) or predicted.dtype.kind not in "biuf":
        raise ValueError(
            f"predict gave {predicted.dtype} {predicted.shape} for {len(x)} rows; expected numbers ({len(x)},)"
        )
    return predicted
