"""Probes that read machine state out of hidden activations, with the controls that make their scores mean something.

The estimators, and the protocol of a custom probe, are names of the package. They are imported when they are first
used: `import probes` alone loads neither torch nor scikit-learn.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["controls", "data", "geometry", "interventions", "measurement", "selftest", "solvers"],
    submod_attrs={
        "data.token_map": ["TokenMap"],
        "solvers.custom": ["Probe"],
        "solvers.estimators": ["DiscriminantProbe", "LeastSquaresProbe", "RidgeProbe"],
        "solvers.logistic": ["LogisticProbe"],
        "solvers.mlp": ["MLPClassifierProbe", "MLPRegressorProbe"],
    },
)
