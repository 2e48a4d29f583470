"""The part of an activation that holds a variable: directions that read and set it (`directions`), maps that erase it
(`erasure`), and, searched for by exchanging them (`interchanges` as arrays, `exchanges` in a model), a `subspace`
(distributed alignment search) or `masks` of heads and neurons, beside its `controls`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "controls",
        "directions",
        "erasure",
        "exchanges",
        "interchanges",
        "masks",
        "subspace",
    ],
)
