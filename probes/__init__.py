"""Probes that read machine state out of hidden activations, with the controls that make their scores mean something.

The estimators, and the protocol of a custom probe, are names of the package. They are imported when they are first
used: `import probes` alone loads neither torch nor scikit-learn.
"""

from __future__ import annotations

import sys
from typing import Any

import lazy_loader

_NAMES = {  # by the module that each stands in
    "solvers.estimators": ["RidgeProbe", "LeastSquaresProbe", "DiscriminantProbe"],
    "solvers.logistic": ["LogisticProbe"],
    "solvers.mlp": ["MLPClassifierProbe", "MLPRegressorProbe"],
    "solvers.custom": ["Probe"],
    "data.token_map": ["TokenMap"],
}
_attribute, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["controls", "data", "geometry", "interventions", "measurement", "selftest", "solvers"],
    submod_attrs=_NAMES,
)


def __getattr__(name: str) -> Any:
    """A room, or a name of the package. Raises AttributeError, which says which names there are."""
    try:
        return _attribute(name)
    except AttributeError:
        names = ", ".join(known for several in _NAMES.values() for known in several)
        message = f"module 'probes' has no {name!r}; it has {names}, and its modules"
        raise AttributeError(message, name=name, obj=sys.modules[__name__]) from None
