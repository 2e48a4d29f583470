"""Causal interventions, judged by the machine: edits at work in a model (`editing`), pairs of programs that differ in
one value (`counterfactuals`), the directions and subspaces that hold it (`subspaces`), what each component does for the
answer (`attribution`), the table of effects and its verdicts (`effects`), the heads along which a value comes
(`attention`), and all of it in one call (`experiment`; `test` is its name here, too)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=[
        "attention",
        "attribution",
        "counterfactuals",
        "editing",
        "effects",
        "experiment",
        "subspaces",
    ],
    submod_attrs={"experiment": ["test"]},
)
