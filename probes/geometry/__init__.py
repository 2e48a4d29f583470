"""How a variable is held: sums by value (`value_statistics`), how many dimensions and neurons it takes
(`dimensions`), in which base numbers are written (`number_bases`), and which residues are told apart (`residues`)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules=["dimensions", "number_bases", "residues", "value_statistics"]
)
