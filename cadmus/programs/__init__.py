"""True-programs: the eleven `families`, the `parts` they are put together from, `skeletons` (a program's form),
`compounds` (which instructions it joins), `splits` (train, validation, test: a function of the text), `mixture` (which
families, how much of each) and `holdout` (what a mixture leaves out of training)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submodules=["compounds", "families", "holdout", "mixture", "parts", "skeletons", "splits"]
)
