"""Mixtures that ship with the package: TOML files, read by `cadmus.mixture.load("NAME")`."""
