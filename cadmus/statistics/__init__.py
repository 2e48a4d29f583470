"""Intervals and tests, in one place: `clustered` (resampled by skeleton), `jackknife` and `proportions` (Wilson)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(__name__, submodules=["clustered", "jackknife", "proportions"])
