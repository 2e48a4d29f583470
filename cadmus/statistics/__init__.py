"""Intervals and tests, in one place: `clustered` (resampled by skeleton), `jackknife`, `proportions` (Wilson),
`simultaneous` (bounds that hold for many cells at once, clustered by base and source), `regression` (with few clusters)
and `ranks` (Spearman within blocks)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules=["clustered", "jackknife", "proportions", "ranks", "regression", "simultaneous"]
)
