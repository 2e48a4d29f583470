"""Fitting: sums over rows of activations (`moments`, `bank`, `rows`), the probes made of them (`linear`), by descent
(`logistic`, `mlp`), scikit-learn's interface to these (`estimators`), all targets of a site at once (`site_probes`),
and a probe of one's own (`custom`)."""
