"""From a recipe to a trained model: `recipe`, `config`, `loop`, `batches`, `gradient`, `graphed` (steps on a GPU),
`optimizers` and `muon`, `cost` (share of the machine's peak), `distributed`, `checkpoint`, and `completion` (is what
the model writes true?)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "batches",
        "checkpoint",
        "completion",
        "config",
        "cost",
        "distributed",
        "gradient",
        "graphed",
        "loop",
        "muon",
        "optimizers",
        "plane",
        "recipe",
    ],
)
