"""Fitting: sums over rows of activations (`moments`, `bank`, `rows`), the probes made of them (`linear`), by descent
(`logistic`, `mlp`), scikit-learn's interface to these (`estimators`), all targets of a site at once (`site_probes`),
and a probe of one's own (`custom`)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "bank",
        "checks",
        "custom",
        "estimators",
        "linear",
        "logistic",
        "logistic_solver",
        "mlp",
        "moments",
        "rows",
        "shrinkage",
        "site_probes",
    ],
)
