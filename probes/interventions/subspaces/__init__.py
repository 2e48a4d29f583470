"""The part of an activation that holds a variable: directions that read and set it, maps that erase it, subspaces and
masks that are searched for by exchanging them (distributed alignment search), each beside its controls."""

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
