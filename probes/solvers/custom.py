"""Probes of one's own: anything with `fit` and `predict`, run through the same data, controls and report as ours."""

from __future__ import annotations

import copy
import importlib.util
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from sklearn.base import clone

from probes.solvers.site_probes import MIN_ROWS

_FAILURES = (Exception, SystemExit)  # of a user's code; Ctrl-C passes through
_MESSAGE = 300  # characters of an exception's message that are kept


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
    """The probe that `FILE.py:NAME` names: a class, made without arguments, or an object.

    The file's folder is searched for modules that it imports, then or later, after all that is installed. Raises
    ValueError, in one line, where the file, the name or one of `fit` and `predict` is missing, and where the file
    raises or exits.
    """
    path, _, name = source.rpartition(":")
    if not path.endswith(".py") or not name:
        raise ValueError(f"--probe {source!r} must be FILE.py:NAME, such as my_probe.py:MyProbe")
    if not Path(path).is_file():
        raise ValueError(f"{path} does not exist; name the Python file that holds {name}")
    spec = importlib.util.spec_from_file_location(f"custom_probe_{Path(path).stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where a class of the file is looked for when it is copied
    folder = str(Path(path).resolve().parent)
    if folder not in sys.path:
        sys.path.append(folder)  # not in front, where it would shadow what is installed
    try:
        spec.loader.exec_module(module)
        found = getattr(module, name, None)
        found = found() if isinstance(found, type) else found
    except _FAILURES as error:
        raise ValueError(f"{source} raised {_told(error)}") from error
    if found is None:
        public = [n for n in vars(module) if not n.startswith("_")]
        raise ValueError(f"{path} has no {name!r}; it has {', '.join(public) or 'no names'}")
    if not isinstance(found, Probe):
        raise ValueError(f"{source} has no fit and predict; a probe needs both (probes.Probe)")
    return found


@dataclass(frozen=True)
class CustomSiteProbes:
    """Fitted copies of a probe at one site, one per target, None where there is none; `problems` says by target why it
    could not be fitted or does not predict; `notes`, what the reader should know; `name`, the probe's class."""

    fitted: tuple[Any, ...]
    problems: dict[int, str] = field(default_factory=dict)
    notes: dict[int, str] = field(default_factory=dict)
    name: str = ""

    @classmethod
    def fit(cls, probe: Probe, x: np.ndarray, values: np.ndarray, shown: np.ndarray) -> CustomSiteProbes:
        """x [rows, features]; values int and shown bool [rows, targets]."""
        fitted, problems, notes = [], {}, {}
        finite = np.isfinite(x).all(1)
        bad = f"{(~finite).sum()} training tokens left out: activations not finite" if not finite.all() else ""
        for k in range(values.shape[1]):
            rows = shown[:, k] & finite
            own, y = None, values[rows, k].astype(np.int64)
            if len(y) < MIN_ROWS:
                problems[k] = f"{len(y)} training tokens; a probe needs {MIN_ROWS}" + (f" ({bad})" if bad else "")
            elif (y == y[0]).all():
                problems[k] = f"constant ({y[0]}) on the training tokens"
            else:
                try:
                    own = fresh(probe)
                    own.fit(x[rows], y)
                    _predicted(own, x[rows][:7])
                except _FAILURES as error:  # whatever a user's code raises concerns this cell only
                    problems[k] = _told(error)
            fitted.append(None if k in problems else own)
            few = f"{len(y)} training tokens for {x.shape[1]} dimensions" if len(y) < x.shape[1] else ""
            if k not in problems and (few or bad):
                notes[k] = "; ".join(filter(None, (few, bad)))
        return cls(tuple(fitted), problems, notes, type(probe).__name__)

    def predict(self, x: np.ndarray, shown: np.ndarray | None = None) -> np.ndarray:
        """What is read in x [rows, features], where `shown` bool [rows, targets] is True (everywhere): float32 [rows,
        targets], NaN where there is no probe, or it raises."""
        out = np.full((len(x), len(self.fitted)), np.nan, np.float32)
        finite = np.isfinite(x).all(1)
        for k, own in enumerate(self.fitted):
            rows = finite if shown is None else finite & shown[:, k]
            if own is not None and k not in self.problems and rows.any():
                try:
                    out[rows, k] = _predicted(own, x[rows])
                except _FAILURES as error:
                    self.problems[k] = _told(error)
        return out

    def penalty(self, target: int) -> float:
        """None is chosen here."""
        return float("nan")


def _told(error: BaseException) -> str:
    """An exception in one line, fit for a table."""
    message = textwrap.shorten(str(error), _MESSAGE, placeholder=" ...")
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def fresh(probe: Probe) -> Any:
    """An unfitted copy."""
    return clone(probe) if hasattr(probe, "get_params") else copy.deepcopy(probe)


def _predicted(probe: Any, x: np.ndarray) -> np.ndarray:
    found = np.asarray(probe.predict(x))
    if found.shape != (len(x),) or found.dtype.kind not in "biuf":
        raise ValueError(f"predict gave {found.dtype} {found.shape} for {len(x)} rows; expected numbers ({len(x)},)")
    return found
