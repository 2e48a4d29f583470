"""Intervals and tests, in one place: `clustered` (resampled by skeleton), `jackknife` and `proportions` (Wilson)."""
