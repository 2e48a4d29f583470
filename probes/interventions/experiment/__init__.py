"""One variable of a model, tested in one call (`test`): readable? read? used? where, by which heads, for how long?

The parts: which `cells` are patched, with what (`arms`), what is written there and under the controls (`conditions`),
what a probe reads there (`readability`), for how long it holds and what dead values do (`persistence`), the subspace in
the best cell (`subspace_search`), and the `tables`. In come a model, a mixture and a variable; out goes an
`Experiment`, tables that are saved and read back."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "arms",
        "cells",
        "conditions",
        "experiment",
        "persistence",
        "readability",
        "subspace_search",
        "tables",
    ],
    submod_attrs={
        "experiment": ["Experiment", "TooFewPairs", "test"],
    },
)
