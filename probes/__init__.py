"""Probes that read machine state out of hidden activations, with the controls that make their scores mean something.

The estimators, and the protocol of a custom probe, are names of the package. They are imported when they are first
used: `import probes` alone loads neither torch nor scikit-learn.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {  # the module that each name stands in
    "RidgeProbe": "probes.solvers.estimators",
    "LeastSquaresProbe": "probes.solvers.estimators",
    "DiscriminantProbe": "probes.solvers.estimators",
    "LogisticProbe": "probes.solvers.logistic",
    "MLPClassifierProbe": "probes.solvers.mlp",
    "MLPRegressorProbe": "probes.solvers.mlp",
    "Probe": "probes.solvers.custom",
    "TokenMap": "probes.data.token_map",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'probes' has no {name!r}; it has {', '.join(__all__)}, and its modules")
    attribute = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
    return attribute


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
